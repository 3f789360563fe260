"""Where bytes come from. An origin resolves a source and locates its files; it moves no bytes.

The modules of the single origins are imported on first use (`open_origin`): their SDKs are large.
"""

from modelcache.origins.credentials import Secret, SecretStore
from modelcache.origins.mirrors import Mirror
from modelcache.origins.names import check_names
from modelcache.origins.network import Network
from modelcache.origins.protocol import (
    HttpLocation,
    LocalLocation,
    Location,
    Origin,
    RemoteArchive,
    RemoteFile,
    Revision,
)
from modelcache.origins.proxies import spare_metadata
from modelcache.origins.registry import OriginSettings, open_origin
from modelcache.origins.selection import may_be_selected, select

__all__ = [
    "HttpLocation",
    "LocalLocation",
    "Location",
    "Mirror",
    "Network",
    "Origin",
    "OriginSettings",
    "RemoteArchive",
    "RemoteFile",
    "Revision",
    "Secret",
    "SecretStore",
    "check_names",
    "may_be_selected",
    "open_origin",
    "select",
    "spare_metadata",
]
