"""What is in a bundle's archive, file by file. The first member of the archive."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from modelcache.api.compilecache import Key
from modelcache.api.meta import API_VERSION, ApiModel
from modelcache.compilecache.keys.parts import canonical

FILE_MODE: Final = 0o644
EXECUTABLE_MODE: Final = 0o755
MAX_FOREIGN: Final = 4

Layout = Literal["plain", "vllm", "triton"]
"""How files are named in the archive (`members.member_name`): as GKM's MCV does, where it can read
such a cache."""


class BundleFile(ApiModel):
    """One file."""

    path: Annotated[str, Field(min_length=1, max_length=4096)]
    """Relative to the cache directory, with slashes: vllm/torch_compile_cache/…"""
    size: Annotated[int, Field(ge=0, lt=2**53)]
    """Bytes."""
    sha256: Key
    """Its content."""
    mode: Literal[0o644, 0o755] = FILE_MODE
    """Permission bits: 0o755 for what is executed, and nothing else."""
    mtime: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """When it was last changed, in ns since 1970. It comes back with the file: ninja, which builds
    FlashInfer's kernels and torch's extensions, builds again what is older than its source."""


class BundleManifest(ApiModel):
    """The files, by path. Directories are those that files lie in, and no others.

    A field that is added later has to be left out of the document where it is not set (None), and
    to be let in by `checking`.
    """

    api_version: Literal["modelcache.dev/v1alpha1"] = API_VERSION
    kind: Literal["CompileBundleManifest"] = "CompileBundleManifest"
    layout: Layout = "plain"
    """How the files are named in the archive."""
    files: tuple[BundleFile, ...]
    """What is unpacked, sorted by path."""
    foreign: Annotated[tuple[BundleFile, ...], Field(max_length=MAX_FOREIGN)] = ()
    """Members for other programs that read the archive, by their names in it. Never unpacked."""

    @property
    def bytes(self) -> int:
        """Bytes of all files, unpacked."""
        return sum(file.size for file in self.files)


def manifest_bytes(manifest: BundleManifest) -> bytes:
    """The bytes that are in the archive, and that the statement has the digest of."""
    return canonical(manifest.to_document())
