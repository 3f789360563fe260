"""Which bundles are let in. A compile cache is code: an engine runs what is in it, as itself.

A bundle is trusted by its digest, which an object pins, or by a signature. Nothing else of it is
read before that is decided.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from hashlib import sha256

from modelcache.compilecache.bundles.signing import TrustedKeys
from modelcache.compilecache.bundles.statement import (
    Envelope,
    Statement,
    parse_envelope,
    parse_statement,
    statement_of,
)
from modelcache.errors import BrokenBundle, Untrusted


@dataclass(frozen=True)
class Trust:
    """Whom this machine trusts. Nobody: the default of both."""

    keys: TrustedKeys = field(default_factory=TrustedKeys)
    digests: Collection[str] = frozenset()
    """Bundles that are pinned: `sha256:<64 hex>` each."""

    def admit(self, envelope: bytes) -> Statement:
        """The statement of a bundle that is trusted.

        Args:
            envelope: its bytes, of whatever origin.

        Raises:
            Untrusted: nobody who is trusted vouches for it, or it can't be read.
        """
        try:
            parsed = parse_envelope(envelope)
            content = statement_of(parsed)
            digest = f"sha256:{sha256(content).hexdigest()}"
            if digest not in self.digests:
                self._check_signatures(parsed, content, digest)
            return parse_statement(content)
        except BrokenBundle as error:
            raise Untrusted(f"the bundle is not taken: {error}") from error

    def _check_signatures(self, envelope: Envelope, content: bytes, digest: str) -> None:
        by = [signature.key_id for signature in envelope.signatures]
        known = [signature for signature in envelope.signatures if signature.key_id in self.keys]
        if any(self.keys[signature.key_id].verifies(signature, content) for signature in known):
            return
        if known:
            why = (
                f"the signature by key {known[0].key_id} is wrong: the statement, or the"
                " signature, was changed"
            )
        elif by:
            trusted = ", ".join(self.keys) or "none"
            why = f"it is signed by {', '.join(by)}; keys trusted here: {trusted}"
        else:
            why = "it is not signed"
        raise Untrusted(f"the bundle {digest} is not taken: {why}; its digest is not pinned")
