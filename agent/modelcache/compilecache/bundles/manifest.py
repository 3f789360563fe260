"""What is in a bundle's archive, file by file. The first member of the archive."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from modelcache.api.compilecache import Key
from modelcache.api.meta import API_VERSION, ApiModel


class BundleFile(ApiModel):
    """One file."""

    path: Annotated[str, Field(min_length=1, max_length=4096)]
    """Relative to the cache directory, with slashes: vllm/torch_compile_cache/…"""
    size: Annotated[int, Field(ge=0)]
    """Bytes."""
    sha256: Key
    """Its content."""
    mode: Annotated[int, Field(ge=0, le=0o777)] = 0o644
    """Permission bits: 0o755 for what is executed. Never setuid, setgid or sticky."""


class BundleManifest(ApiModel):
    """The files, by path. Directories are those that files lie in, and no others."""

    api_version: Literal["modelcache.dev/v1alpha1"] = API_VERSION
    kind: Literal["CompileBundleManifest"] = "CompileBundleManifest"
    files: tuple[BundleFile, ...]

    @property
    def bytes(self) -> int:
        """Bytes of all files, unpacked."""
        return sum(file.size for file in self.files)
