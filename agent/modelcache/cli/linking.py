"""modelcache link: the init container that lets a pod's directories lead to the node's views."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from modelcache.cli.options import Output
from modelcache.cli.output import Format, print_json
from modelcache.cluster.linking import Asked
from modelcache.cluster.linking import link as link_views
from modelcache.errors import UsageError


def link(
    models: Annotated[list[str], typer.Argument(metavar="NAME", help="Models to link.")],
    hub_views: Annotated[
        Path | None,
        typer.Option(metavar="DIRECTORY", help="The node's hub views: one directory per model."),
    ] = None,
    hub_cache: Annotated[
        Path | None,
        typer.Option(metavar="DIRECTORY", help="The pod's own HF_HUB_CACHE, to be filled."),
    ] = None,
    model_views: Annotated[
        Path | None,
        typer.Option(metavar="DIRECTORY", help="The node's plain views: one directory per model."),
    ] = None,
    models_at: Annotated[
        Path | None,
        typer.Option("--models", metavar="DIRECTORY", help="Where a link per model is made."),
    ] = None,
    offline: Annotated[
        bool,
        typer.Option("--offline", help="The engine has HF_HUB_OFFLINE=1: nothing is fetched."),
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """Link the models that this node has into a pod's own directories.

    What the node lacks is left out, with a line that says so, and is no failure: the engine then
    fetches it by itself. `modelcache inject` and the webhook add an init container that runs this.
    """
    asked = Asked(
        models,
        hub_views=str(hub_views or ""),
        hub_cache=str(hub_cache or ""),
        model_views=str(model_views or ""),
        models=str(models_at or ""),
        offline=offline,
    )
    if asked.mistake():
        raise UsageError(asked.mistake())
    said = link_views(asked)
    if output is Format.JSON:
        told = [{"name": name, "messages": lines} for name, lines in said.items()]
        print_json("LinkResult", {"models": told})
        return
    for name, lines in said.items():
        for line in lines:
            print(f"{name}: {line}")
