"""The options by which a command line says whose bundles it trusts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from modelcache.api.compilecache import DIGEST_PATTERN
from modelcache.compilecache.bundles.signing import TrustedKeys
from modelcache.compilecache.bundles.trust import Trust
from modelcache.errors import UsageError

PublicKeys = Annotated[
    list[Path] | None,
    typer.Option(
        "--public-key",
        metavar="PATH",
        help="Whose signature is trusted: a file with public keys, or a directory of such. May be"
        " given several times.",
    ),
]
Digests = Annotated[
    list[str] | None,
    typer.Option(
        "--digest",
        metavar="sha256:...",
        help="A bundle that is trusted by its digest. May be given several times.",
    ),
]


def trust_of(public_keys: list[Path] | None, digests: list[str] | None) -> Trust | None:
    """Whom a command line trusts; None: nothing was said of it.

    Raises:
        UsageError
    """
    if not public_keys and not digests:
        return None
    for digest in digests or ():
        if not re.fullmatch(DIGEST_PATTERN, digest):
            raise UsageError(f"--digest {digest[:80]}: sha256: and 64 hex digits are wanted")
    keys = [key for path in public_keys or () for key in TrustedKeys.load(path).values()]
    return Trust(TrustedKeys(*keys), frozenset(digests or ()))
