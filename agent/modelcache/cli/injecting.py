"""modelcache inject: what the webhook does to pods, done to manifests, without a cluster."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from modelcache.api import CachedModel, CompileCache
from modelcache.catalog import FileCatalog
from modelcache.cli.manifests import as_yaml, read_manifests
from modelcache.cli.options import flag, settings
from modelcache.cli.output import one_line
from modelcache.cluster.injection import Caches, Config, Known, Level, Malformed, inject
from modelcache.cluster.injection.asking import mapping
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
            help="Image for the containers that pods get; without one such pods get affinity only."
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
            help="Catalog file, or directory of them, with the CachedModels and CompileCaches: it"
            " says which models come from the Hub, and which there are. Pods that ask for a compile"
            " cache need it.",
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
    compile_port: Annotated[int | None, flag("compile_port", "PORT", kind=WebhookSettings)] = None,
    sidecars: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="What the sidecar of pods with a compile cache is: native (Kubernetes 1.29) or"
            " ordinary. [default: native]",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        ManifestFormat, typer.Option("--output", "-o", help="How to print.")
    ] = ManifestFormat.YAML,
) -> None:
    """Give the pods in a manifest that ask for models or compile caches what they need.

    For Pods, Deployments, StatefulSets, DaemonSets, ReplicaSets, Jobs, CronJobs and Lists of them,
    where the pod (or the template) has the annotation modelcache.dev/model or
    modelcache.dev/compile-cache. All else is printed as it was, without its comments. Warnings are
    on stderr.
    """
    found = settings(
        WebhookSettings,
        root=root,
        compile_port=compile_port,
        pod_security=pod_security,
        sidecars=sidecars,
    )
    level = Level(found.pod_security) if pod_security else Level.PRIVILEGED
    config = Config(
        root=str(found.root),
        image=image,
        level=level,
        compile_port=found.compile_port,
        native_sidecars=sidecars != "ordinary",
    )
    known, caches = _known(models) if models else (None, None)
    results = []
    for document in read_manifests(file):
        changed, warnings = injected(document, known, config, caches)
        results.append(changed)
        for warning in warnings:
            print(f"modelcache: warning: {one_line(warning)}", file=sys.stderr)
    if output is ManifestFormat.JSON:
        print(json.dumps({"apiVersion": "v1", "kind": "List", "items": results}, indent=2))
    else:
        print(as_yaml(results), end="")


def injected(
    document: Any, known: Known | None, config: Config, caches: Caches | None = None
) -> tuple[Any, list[str]]:
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
            namespace = mapping(found.get("metadata"), "metadata").get("namespace")
            config = replace(config, namespace=str(namespace or ""))
            result = inject(pod, known, config, caches)
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


def _known(path: Path) -> tuple[Known, Caches]:
    if not path.exists():
        raise UsageError(f"{path} is not there")
    catalog = FileCatalog(path).read()
    for problem in catalog.problems:
        print(f"modelcache: warning: {one_line(str(problem))}", file=sys.stderr)
    found = [document.object for document in catalog.documents.values()]
    models = {
        each.name: each.spec.source.parsed.scheme for each in found if isinstance(each, CachedModel)
    }
    return models, {each.name: each.spec for each in found if isinstance(each, CompileCache)}
