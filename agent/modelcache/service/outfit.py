"""What fetches, put together from the settings: the engine, and what origins may do."""

from __future__ import annotations

from pathlib import Path

from modelcache.origins import Network, OriginSettings, SecretStore
from modelcache.origins.mirrors import from_pairs
from modelcache.settings import FetchSettings
from modelcache.transfer import Engine, TransferSettings


def outfit(
    found: FetchSettings, root: Path, file_roots: tuple[Path, ...] | None
) -> tuple[Engine, OriginSettings]:
    """The engine, and the origins' settings, over one network.

    Raises:
        UsageError: a proxy of the environment, or the CA bundle, can't be used.
    """
    network = Network(ca_bundle=found.ca_bundle, private_redirects=found.private_redirects)
    engine = Engine(
        TransferSettings(
            connections=found.connections,
            bandwidth=found.bandwidth,
            origin_bandwidth=dict(found.origin_bandwidth),
            host_connections=found.host_connections,
            io_priority=found.io_priority,
        ),
        network,
    )
    origins = OriginSettings(
        root=root,
        file_roots=file_roots,
        secrets=SecretStore(found.secrets_dir),
        network=network,
        mirrors=from_pairs(found.mirrors),
    )
    return engine, origins
