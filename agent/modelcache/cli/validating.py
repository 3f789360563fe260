"""modelcache validate: check catalog files without a cluster, a cache or a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from modelcache.catalog import Document, FileCatalog, ObjectKey, Problem, Severity
from modelcache.cli.options import Output
from modelcache.cli.output import Format, print_json
from modelcache.errors import UsageError


def validate(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", help="Catalog files, or directories of them."),
    ],
    output: Output = Format.TABLE,
) -> None:
    """Check catalog files, and say what is wrong where, and what is allowed instead."""
    documents: dict[ObjectKey, Document] = {}
    problems: list[Problem] = []
    for path in files:
        if not path.exists():
            raise UsageError(f"{path} is not there")
        catalog = FileCatalog(path).read()
        problems += catalog.problems
        for key, document in catalog.documents.items():
            other = documents.setdefault(key, document)
            if other is not document and other.place != document.place:
                problems.append(
                    Problem(document.file, f"{key} is in {other.place} already", document.number)
                )
    errors = [problem for problem in problems if problem.severity is Severity.ERROR]
    if output is Format.JSON:
        print_json(
            "ValidationResult",
            {"valid": not errors, "objects": len(documents), "problems": [*map(_plain, problems)]},
        )
    else:
        for problem in problems:
            print(f"{'warning: ' if problem.severity is Severity.WARNING else ''}{problem}")
        noun = "object" if len(documents) == 1 else "objects"
        mistakes = "1 problem" if len(errors) == 1 else f"{len(errors)} problems"
        state = mistakes if errors else "valid"
        print(f"{len(documents)} {noun}, {state}")
    if errors:
        raise typer.Exit(UsageError.exit_code)


def _plain(problem: Problem) -> dict[str, object]:
    content: dict[str, object] = {
        "severity": problem.severity.value,
        "file": problem.file,
        "document": problem.document,
        "line": problem.line,
        "field": problem.field or None,
        "object": problem.object,
        "message": problem.message,
    }
    return {name: value for name, value in content.items() if value is not None}
