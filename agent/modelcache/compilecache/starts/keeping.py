"""What was captured becomes a bundle: signed, held on this machine, and published."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from modelcache import __version__
from modelcache.compilecache.bundles.local import LocalBundle
from modelcache.compilecache.bundles.signing import SigningKey
from modelcache.compilecache.bundles.statement import Producer, Statement
from modelcache.compilecache.keys.parts import Key
from modelcache.compilecache.starts.capturing import Captured
from modelcache.compilecache.starts.holding import Held, Holding
from modelcache.compilecache.starts.using import InUse
from modelcache.store.durable import Durable

GENERATIONS: Final = 2
"""Bundles of one key that stay on this machine: the newest, and one to go back to."""


@dataclass(frozen=True, slots=True)
class Keeper:
    """Makes bundles of what is captured. For one start."""

    holding: Holding
    durable: Durable
    signing_key: SigningKey
    name: str
    key: Key

    def keep(self, captured: Captured) -> LocalBundle:
        """Sign it, hold it, and have the next start seeded from it.

        Args:
            captured: the archive, on the root's file system, so that it can be linked.

        Raises:
            BrokenBundle: it is one that nobody would take.
            InsufficientDisk: the disk is full.
        """
        statement = Statement(
            name=self.name,
            key=self.key,
            archive=captured.facts,
            engine_hashes=captured.hashes,
            producer=Producer(version=__version__, node=platform.node()[:253]),
            evidence=captured.evidence,
            created_at=datetime.now(UTC).replace(microsecond=0),
        )
        envelope = self.signing_key.sign(statement)
        with self.holding.staging() as staged:
            LocalBundle.write(staged, envelope, captured.archive, self.durable)
            held = self.holding.add(staged, self.name, self.key.digest, statement.digest)
        self.holding.show(self.name, held.key, held.digest)
        self._forget_older(held)
        return held.open()

    def _forget_older(self, newest: Held) -> None:
        others = [
            held
            for held in self.holding.of(self.name)
            if held.key == newest.key and held.digest != newest.digest
        ]
        for held in others[: -(GENERATIONS - 1)]:
            try:
                self.holding.remove(self.name, held.key, held.digest)
            except InUse:
                continue
