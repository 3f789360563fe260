"""The objects that people, agents and the API server exchange. Data and its rules; no I/O.

`CachedModel` and `CompileCache` are written by people, `NodeCache` by an agent, `Manifest` by the
store. The classes are the one source: CRDs are generated from them (`modelcache.api.crds`).
"""

from modelcache.api.cachedmodel import CachedModel, CachedModelSpec, PageCache, Refresh, Source
from modelcache.api.compilecache import CompileCache
from modelcache.api.manifest import HubFile, HubIdentity, Manifest, ManifestFile
from modelcache.api.meta import API_GROUP, API_VERSION, Condition, ObjectMeta
from modelcache.api.nodecache import (
    CatalogReport,
    DiskReport,
    ModelReport,
    ModelState,
    NodeCache,
    NodeCacheStatus,
)
from modelcache.api.saying import without_credentials
from modelcache.api.uri import SCHEMES, SourceURI, parse_uri, shown_uri

__all__ = [
    "API_GROUP",
    "API_VERSION",
    "SCHEMES",
    "CachedModel",
    "CachedModelSpec",
    "CatalogReport",
    "CompileCache",
    "Condition",
    "DiskReport",
    "HubFile",
    "HubIdentity",
    "Manifest",
    "ManifestFile",
    "ModelReport",
    "ModelState",
    "NodeCache",
    "NodeCacheStatus",
    "ObjectMeta",
    "PageCache",
    "Refresh",
    "Source",
    "SourceURI",
    "parse_uri",
    "shown_uri",
    "without_credentials",
]
