"""The key that this machine signs its own captures with, where it is given no other.

A machine trusts what it captured itself, and it can tell by this: the key is made at the first
capture, is readable by its owner alone, and never leaves the root. Nobody else trusts it, unless
its public half, which lies beside it, is given to them.
"""

from __future__ import annotations

from pathlib import Path

from modelcache.compilecache.bundles.signing import SigningKey
from modelcache.errors import UsageError
from modelcache.store.durable import Durable, disk_errors
from modelcache.store.layout import Layout
from modelcache.store.locking import Turns


def own_key_path(layout: Layout) -> Path:
    """Where the key lies."""
    return layout.keys / "compile.pem"


def own_key(layout: Layout, durable: Durable) -> SigningKey:
    """This machine's own key, made if there is none yet.

    Raises:
        InsufficientDisk: the disk is full.
        UsageError: it can't be read, or others can read it.
    """
    path = own_key_path(layout)
    with Turns(layout.compile_lock).take():
        if not path.exists():
            key = SigningKey.generate()
            with disk_errors():
                durable.make_directory(path.parent)
                durable.write_file(path.with_suffix(".pub"), key.public.to_pem())
                durable.write_file(path, key.to_pem(), mode=0o600)
    if path.stat().st_mode & 0o077:
        raise UsageError(f"{path} can be read by others: chmod 600 {path}, or remove it")
    return SigningKey.load(path)
