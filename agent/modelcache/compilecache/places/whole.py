"""A bundle that is about to be published is what it says it is."""

from __future__ import annotations

from hashlib import sha256

from modelcache.compilecache.bundles.local import LocalBundle
from modelcache.errors import BrokenBundle
from modelcache.transfer.cancelling import Cancel

_BLOCK = 1024 * 1024


def require_whole(bundle: LocalBundle, cancel: Cancel) -> None:
    """Compare the archive with the statement.

    Raises:
        BrokenBundle: it is another, or was cut.
        Cancelled
    """
    digest, size = sha256(), 0
    with bundle.archive.open("rb") as file:
        while block := file.read(_BLOCK):
            cancel.check()
            digest.update(block)
            size += len(block)
    wanted = bundle.statement.archive
    if (f"sha256:{digest.hexdigest()}", size) != (wanted.digest, wanted.size):
        raise BrokenBundle(
            f"{bundle.archive} is not the archive that its bundle.json names: pack it again"
        )
