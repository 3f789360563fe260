"""Catalog documents for the tests."""

from __future__ import annotations

from modelcache.catalog import Document, Problem, read_documents

API = "modelcache.dev/v1alpha1"


def model(name: str, uri: str = "hf://org/name", more: str = "") -> str:
    """A CachedModel; `more` is further lines of its spec."""
    lines = "".join(f"  {line}\n" for line in more.splitlines())
    return (
        f"apiVersion: {API}\nkind: CachedModel\nmetadata:\n  name: {name}\n"
        f"spec:\n  source:\n    uri: {uri}\n{lines}"
    )


def compile_cache(name: str) -> str:
    """A CompileCache."""
    return (
        f"apiVersion: {API}\nkind: CompileCache\nmetadata: {{name: {name}}}\nspec:\n"
        f"  model: llama\n  engine: {{name: vllm, image: 'r/vllm@sha256:{'0' * 64}'}}\n"
        "  bundles: {uri: 's3://bucket/bundles'}\n"
    )


def stream(*documents: str) -> str:
    """Several documents as one text."""
    return "---\n".join(documents)


def names(text: str | bytes) -> list[str]:
    """What was read, by name."""
    return [d.object.name for d in entries(text) if isinstance(d, Document)]


def problems(text: str | bytes) -> list[Problem]:
    """What is wrong."""
    return [p for p in entries(text) if isinstance(p, Problem)]


def entries(text: str | bytes) -> list[Document | Problem]:
    """What `read_documents` says."""
    return read_documents(text.encode() if isinstance(text, str) else text, "models.yaml")


def problem(text: str | bytes) -> Problem:
    """The only thing that is wrong."""
    (only,) = problems(text)
    return only
