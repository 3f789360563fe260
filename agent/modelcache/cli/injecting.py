"""modelcache inject: what the webhook does to pods, done to manifests, without a cluster."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from modelcache.api import CachedModel
from modelcache.catalog import FileCatalog
from modelcache.cli.manifests import as_yaml, read_manifests
from modelcache.cli.options import flag, settings
from modelcache.cli.output import one_line
from modelcache.cluster.injection import Config, Known, Level, Malformed, inject
from modelcache.cluster.injection.templates import (
    asks,
    at,
    documents,
    looks_like_asking,
    pod_path,
)
from modelcache.cluster.resources import Object
from modelcache.errors import UsageError
from modelcache.settings import WebhookSettings


class ManifestFormat(StrEnum):
    """How manifests are printed."""

    YAML = "yaml"
    JSON = "json"


def inject_manifests(
    file: Annotated[
        str, typer.Option("--file", "-f", metavar="FILE", help="YAML or JSON; - for stdin.")
    ],
    root: Annotated[Path | None, flag("root", "DIRECTORY", kind=WebhookSettings)] = None,
    image: Annotated[
        str,
        typer.Option(
            metavar="IMAGE",
            help="Image for the init container; without one such pods get affinity only."
            " [MODELCACHE_IMAGE]",
            envvar="MODELCACHE_IMAGE",
            show_envvar=False,
            show_default=False,
        ),
    ] = "",
    models: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Catalog file, or directory of them, with the CachedModels: it says which come"
            " from the Hub, and which there are.",
        ),
    ] = None,
    pod_security: Annotated[
        str | None,
        typer.Option(
            metavar="LEVEL",
            help="What Pod Security enforces in the pods' namespace: privileged, baseline or"
            " restricted. [default: privileged]",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        ManifestFormat, typer.Option("--output", "-o", help="How to print.")
    ] = ManifestFormat.YAML,
) -> None:
    """Give the pods in a manifest that ask for models their affinity and mounts.

    For Pods, Deployments, StatefulSets, DaemonSets, ReplicaSets, Jobs, CronJobs and Lists of them,
    where the pod (or the template) has the annotation modelcache.dev/model. All else is printed as
    it was, without its comments. Warnings are on stderr.
    """
    given = {"pod_security": pod_security} if pod_security else {}
    found = settings(WebhookSettings, root=root, **given)
    level = Level(found.pod_security) if pod_security else Level.PRIVILEGED
    config = Config(root=str(found.root), image=image, level=level)
    known = _known(models) if models else None
    results = []
    for document in read_manifests(file):
        changed, warnings = injected(document, known, config)
        results.append(changed)
        for warning in warnings:
            print(f"modelcache: warning: {one_line(warning)}", file=sys.stderr)
    if output is ManifestFormat.JSON:
        print(json.dumps({"apiVersion": "v1", "kind": "List", "items": results}, indent=2))
    else:
        print(as_yaml(results), end="")


def injected(document: Any, known: Known | None, config: Config) -> tuple[Any, list[str]]:
    """A document as it is to be, and warnings that name the object that they are about.

    Raises:
        UsageError: an object is not what its kind says.
    """
    warnings: list[str] = []
    for place, found in documents(document):
        what = _title(found)
        path = pod_path(found)
        try:
            if path is None:
                if looks_like_asking(found):
                    warnings.append(f"{what} is left as it is: where its pods are isn't known")
                continue
            pod = at(found, path)
            if not asks(pod):
                if looks_like_asking(found):
                    where = ".".join([*map(str, path), "metadata.annotations"])
                    warnings.append(f"{what}: the annotation is to be in {where}")
                continue
            result = inject(pod, known, config)
        except Malformed as error:
            raise UsageError(f"{what}: {error}") from error
        warnings += [f"{what}: {warning}" for warning in result.warnings]
        document = _with(document, (*place, *path), result.pod)
    return document, warnings


def _with(document: Any, path: tuple[str | int, ...], pod: Object) -> Any:
    """A document with something else at a path; what is not on the way there is the same."""
    if not path:
        return pod
    first, *rest = path
    inner = _with(document[first], tuple(rest), pod)
    if isinstance(document, list):
        return [inner if number == first else item for number, item in enumerate(document)]
    return {**document, first: inner}


def _title(document: Object) -> str:
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return f"{document.get('kind') or 'an object without a kind'} {name or ''}".strip()


def _known(path: Path) -> dict[str, str]:
    if not path.exists():
        raise UsageError(f"{path} is not there")
    catalog = FileCatalog(path).read()
    for problem in catalog.problems:
        print(f"modelcache: warning: {one_line(str(problem))}", file=sys.stderr)
    found = [document.object for document in catalog.documents.values()]
    return {
        each.name: each.spec.source.parsed.scheme for each in found if isinstance(each, CachedModel)
    }
