"""modelcache cleanup: everything of ours off the nodes of a cluster, before it is uninstalled."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

from modelcache.cli.options import Output, flag, settings
from modelcache.cli.output import Format, print_json
from modelcache.cluster.cleaning import Cleaning
from modelcache.cluster.client import Client
from modelcache.service.reporting import DISK_CONDITION, READY_CONDITION
from modelcache.settings import CleanupSettings

_flag = partial(flag, kind=CleanupSettings)


def cleanup(
    kubeconfig: Annotated[Path | None, _flag("kubeconfig", "PATH")] = None,
    namespace: Annotated[str | None, _flag("namespace", "NAME")] = None,
    startup_taints: Annotated[str | None, _flag("startup_taints", "KEY,...")] = None,
    agents_end: Annotated[str | None, _flag("agents_end", "TIME")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Stop the agents of a cluster, and take their labels, conditions and taints off its nodes.

    What lies on the nodes' disks stays, and so do CachedModels. Run again, it changes nothing.
    """
    found = settings(
        CleanupSettings,
        kubeconfig=kubeconfig,
        namespace=namespace,
        startup_taints=startup_taints,
        agents_end=agents_end,
    )
    client = Client.connect(found.kubeconfig, "cleanup")
    try:
        cleaning = Cleaning(
            client,
            startup_taints=found.startup_taints,
            conditions=(READY_CONDITION, DISK_CONDITION),
            tell=lambda line: print(line, file=sys.stderr, flush=True),
        )
        cleaning.stop_agents(found.namespace, found.agents_end)
        done = cleaning.clean()
    finally:
        client.close()
    if output is Format.JSON:
        counts = {"nodes": done.nodes, "changed": done.changed, "nodeCaches": done.node_caches}
        print_json("Cleanup", counts)
    else:
        print(
            f"{done.nodes} nodes, {done.changed} of them carried something of ours;"
            f" {done.node_caches} NodeCaches deleted"
        )
