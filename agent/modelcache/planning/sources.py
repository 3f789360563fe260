"""The digest of a source, remembered: planning asks for it in every round."""

from __future__ import annotations

from functools import lru_cache

from modelcache.api import Source


@lru_cache(maxsize=65_536)
def source_digest(source: Source) -> str:
    """`Source.digest`, computed once for each source."""
    return source.digest()
