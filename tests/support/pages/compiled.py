"""Compile caches as an agent describes them: ready, missing, refused."""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256
from typing import Any, Final

from modelcache.api.nodecache import CompileReport, StartReport, WithdrawnBundle
from modelcache.compilecache.engines.blaming import MissReason
from modelcache.compilecache.keys.differing import Difference
from modelcache.planning.compilechoosing import HeldBundle, Need
from modelcache.planning.compiledescribing import Known, describe
from modelcache.planning.compiletrials import CompileTrial, Offer
from tests.support.pages.models import before

_ACCELERATOR: Final = "NVIDIA-H100-80GB-HBM3"
_KEY: Final = sha256(b"key").hexdigest()
_NEED: Final = Need(spec=_KEY[-16:], place="oci://registry.example/bundles", key=_KEY)
_BUNDLE: Final = f"sha256:{sha256(b'bundle').hexdigest()}"
_STRANGERS: Final = f"sha256:{sha256(b'of a stranger').hexdigest()}"
_SIGNER, _TRUSTED = "9c2f41d07ab3e865", "51b8e0c67d92af34"


def hit(name: str) -> CompileReport:
    """A bundle is here, and starts use it."""
    held = HeldBundle(_KEY, _BUNDLE, before(days=1, hours=4).timestamp(), shown=True)
    start = StartReport(result="Hit", at=before(minutes=34), compile_milliseconds=9_400)
    known = _known(last_start=start, sizes={_BUNDLE: 412 << 20}, verified=frozenset({_BUNDLE}))
    return describe(name, _NEED, [held], None, None, known)


def missing(name: str) -> CompileReport:
    """Nothing was published for this node's key."""
    differs = Difference("accelerator", "driverMajor", "570", "560").sentence
    nearest = f"the nearest bundle there differs: {differs}"
    start = _miss(
        before(hours=7),
        *(214_000, MissReason.NOTHING_SEEDED),
        "there was no bundle for this key, so the engine compiled; modelcache compile explain"
        " says in what other bundles differ",
    )
    known = _known(last_start=start, last_miss=start)
    trial = _trial().looked((), frozenset(), nearest, before(minutes=2).timestamp())
    return describe(name, _NEED, (), trial, None, known)


def refused(name: str) -> CompileReport:
    """One bundle was withdrawn, and what is published besides is signed by a stranger."""
    why = (
        f"the bundle {_STRANGERS} is not taken: it is signed by {_SIGNER}; keys trusted here:"
        f" {_TRUSTED}; its digest is not pinned"
    )
    start = _miss(
        before(minutes=15),
        *(187_000, MissReason.LOAD_FAILED),
        "4 graphs of the cache could not be loaded, and were compiled again: a bundle that fails"
        " several times in a row is withdrawn",
    )
    withdrawn = WithdrawnBundle(digest=_BUNDLE, key=_KEY, message=start.message or "")
    at = before(minutes=2).timestamp()
    trial = _trial().looked((Offer(_STRANGERS, at),), frozenset(), "", at, {_STRANGERS: why})
    known = _known(last_start=start, last_miss=start, withdrawn=(withdrawn,))
    return describe(name, _NEED, (), trial, None, known)


def _trial() -> CompileTrial:
    return CompileTrial(_NEED.spec, _KEY)


def _known(**more: Any) -> Known:
    return Known(accelerator=_ACCELERATOR, **more)


def _miss(at: datetime, took: int, reason: MissReason, message: str) -> StartReport:
    return StartReport(
        result="Miss", at=at, compile_milliseconds=took, reason=reason.value, message=message
    )
