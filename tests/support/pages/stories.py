"""The nodes: all is there, some of it comes, much is wrong."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Final

from modelcache.api import ModelReport
from modelcache.catalog import Problem, read_documents
from modelcache.catalog.snapshot import Catalog
from modelcache.errors import AuthFailed, InsufficientDisk, NotFound, Reason
from modelcache.metrics import Metrics
from modelcache.planning.candidates import Candidate, Revision
from modelcache.planning.evicting import Amount, GraceOver, Room, decide
from modelcache.planning.using import User, Uses
from modelcache.service.evictionnews import EvictionNews
from modelcache.service.happenings import Happenings
from modelcache.service.page import Facts
from modelcache.service.refusing import Refused, refusal
from modelcache.store import MODEL_NAMES_BYTES
from modelcache.store.sickness import Health, Sickness
from modelcache.transfer.events import FetchEnded, FetchStarted, HostPaused
from tests.support.pages import compiled
from tests.support.pages.models import (
    GIB,
    NOW,
    ROOT,
    before,
    coming,
    ready,
    revision_of,
    tried,
    waiting,
    wanted,
)
from tests.support.pages.models import (
    failing as failed,
)
from tests.support.pages.nodes import Story, facts, node, space_of

STARTING: Final = facts(None, *Story(timedelta(seconds=2)).latest, since=before(seconds=2))
EMPTY: Final = facts(node(), *Story(timedelta(seconds=40)).latest, since=before(seconds=40))

_QWEN: Final = ready(
    wanted("qwen3-32b", "hf://Qwen/Qwen3-32B", priority=10, pageCache="Warm"),
    *(61.1, 27),
    resident_bytes=round(61.1 * GIB * 0.874),
    used_by=2,
)
_BGE: Final = wanted("bge-m3", "hf://BAAI/bge-m3")
_EMBED: Final = ready(_BGE, 2.12, 14, last_used_at=before(hours=3, minutes=10))
_ADAPTERS: Final = ready(
    wanted("support-adapters", "s3://models/adapters/support/", pinned=True),
    *(0.84, 36),
    made=before(seconds=409),
    resident_bytes=round(0.84 * GIB),
    used_by=1,
)
_META: Final = wanted("llama-3-3-70b", "hf://meta-llama/Llama-3.3-70B-Instruct")
_LLAMA: Final = coming(_META, before(minutes=4), done=84.3, total=131.4, files=42)
_SPEECH: Final = wanted("whisper-large-v3", "oci://registry.example/speech/whisper:v3")
_WHISPER: Final = coming(_SPEECH, before(seconds=50), done=2.2, total=2.9, files=9, unpacking=True)
_MIXTRAL: Final = waiting(
    wanted("mixtral-8x22b", "gs://models-eu/mixtral-8x22b/"), before(minutes=5)
)
_LEFT: Final = wanted("qwen2-7b", "hf://Qwen/Qwen2-7B")
_OLD: Final = ready(
    *(_LEFT, 14.2, 12),
    is_wanted=False,
    unwanted_since=before(minutes=6),
    last_used_at=before(days=1),
)
_COMPILED: Final = compiled.hit("qwen3-32b-vllm")


def well() -> Facts:
    """All is there."""
    llama = ready(_META, 131.4, 42, made=before(seconds=5_000), used_by=1)
    whisper = ready(_SPEECH, 2.9, 9)
    others = (_QWEN, _EMBED, whisper, _ADAPTERS)
    found, story = node(*others, llama, compile_caches=(_COMPILED,)), Story()
    story.at(seconds=5_330)(_begun("llama-3-3-70b", 131.4, 42))
    story.at(seconds=5_001)(_ended("llama-3-3-70b", 131.4, 326.0))
    story.changed(node(*others, compile_caches=(_COMPILED,)), found, seconds=5_000)
    return facts(found, *story.latest)


def busy() -> Facts:
    """Some models are there, some are coming."""
    models = (_QWEN, _LLAMA, _EMBED, _WHISPER, _MIXTRAL, _ADAPTERS, _OLD)
    missed = compiled.missing("llama-3-3-70b-vllm")
    found, story = node(*models, compile_caches=(_COMPILED, missed)), Story()
    paused = HostPaused("llama-3-3-70b", "hf", "huggingface.co", 2.0, 8, 429)
    story.changed(node(*models, compile_caches=(missed,)), found, hours=30)
    story.at(seconds=414)(_begun("support-adapters", 0.84, 36))
    story.at(seconds=410)(_ended("support-adapters", 0.84, 4.1))
    without = node(*(each for each in models if each is not _ADAPTERS))
    story.changed(without, node(*models), seconds=409)
    story.at(seconds=240)(_begun("llama-3-3-70b", 131.4, 42))
    story.at(seconds=95)(paused)
    return facts(found, *story.latest, rates={"llama-3-3-70b": 412.0 * (1 << 20)})


def failing() -> Facts:
    """Much is wrong: tokens, room, a document, the disk."""
    gated = failed(
        _META,
        AuthFailed(
            "meta-llama/Llama-3.3-70B-Instruct is gated: accept its licence at"
            " https://huggingface.co/meta-llama/Llama-3.3-70B-Instruct with the token's account"
        ),
        before(hours=2, minutes=20),
    )
    held_up = coming(
        wanted("mistral-small", "https://models.example/mistral-small/w.safetensors"),
        before(minutes=9),
        done=22.4,
        total=47.3,
        files=1,
        reason=Reason.ORIGIN_UNAVAILABLE,
        message="https://models.example/mistral-small/w.safetensors stopped sending",
    )
    stale = ready(
        *(_BGE, 2.12, 14),
        trial=tried(_BGE, NotFound("BAAI/bge-m3 has no revision 'main'"), before(seconds=9)),
        resident_bytes=round(2.12 * GIB),
        used_by=1,
    )
    large = _too_large(_QWEN, stale, held_up)
    refused = (compiled.refused("qwen3-32b-vllm"),)
    models, story = (_QWEN, gated, large, held_up, stale), Story()
    embed = ready(_BGE, 2.12, 14)
    calm = node(_QWEN, gated, large, held_up, embed, compile_caches=(_COMPILED,))
    withdrawn = node(_QWEN, gated, large, held_up, embed, compile_caches=refused)
    well_disk = node(*models, capacity=900, compile_caches=refused)
    catalog = _faulty().report()
    sick = node(
        *models, capacity=900, health=_with_errors(), compile_caches=refused, catalog=catalog
    )
    story.changed(node(_QWEN), node(_QWEN, gated), hours=2, minutes=20)
    _evict_old(story.at(minutes=32))
    story.changed(node(_QWEN), node(_QWEN, large), minutes=24)
    _news(story.at(minutes=24)).blocked(large.name, large.message or "")
    story.changed(calm, withdrawn, minutes=15)
    story.changed(well_disk, sick, minutes=12)
    story.at(minutes=9)(_begun("mistral-small", 47.3, 1))
    story.changed(withdrawn, node(*models, compile_caches=refused), seconds=9)
    return facts(sick, *story.latest, rates={"mistral-small": 0.0})


def _too_large(*others: ModelReport) -> ModelReport:
    """A model that doesn't fit beside others, which stay."""
    model, gib = wanted("deepseek-v3", "hf://deepseek-ai/DeepSeek-V3", priority=5), 641.3
    space = space_of(900, others)
    need = Amount(round(gib * GIB) + MODEL_NAMES_BYTES, 200)
    left = space.budget - space.used - space.reserved
    there = [
        Candidate(
            each.name,
            (Revision(each.revision or "", {each.name: each.bytes_done}),),
            priority=each.priority,
        )
        for each in others
        if each.finished_at
    ]
    uses = Uses((User("pod", "serving/embed-5c9d", "bge-m3"),))
    room = Room(model.metadata.name, model.spec.priority, Amount(need.bytes - left))
    decision = decide(there, uses, room, now=NOW.timestamp(), grace=None)
    refused = Refused("deepseek-v3", need, left, kept=Amount(), promised=space.reserved)
    error = InsufficientDisk(refusal(refused, decision, space, Path(ROOT)))
    return failed(model, error, before(minutes=24), gib)


def _evict_old(told: Happenings) -> None:
    """What nothing wants any more goes."""
    size = _OLD.bytes_done
    revision = Revision(_OLD.revision or "", {"blob": size})
    since = before(days=7, hours=1).timestamp()
    there = [Candidate("qwen2-7b", (revision,), wanted=False, unwanted_since=since)]
    week = timedelta(days=7).total_seconds()
    (going,) = decide(there, Uses(), GraceOver(), now=NOW.timestamp(), grace=week).going
    _news(told).evicted(going, size)


def _news(told: Happenings) -> EvictionNews:
    return EvictionNews(Metrics(lambda: None), lambda: told)


def _with_errors() -> Health:
    """A disk that gave an error lately."""
    sickness = Sickness(Path(ROOT))
    sickness.noted(os.strerror(errno.EIO), 0.0)
    return sickness.health(60.0)


def _faulty() -> Catalog:
    """A catalog with six objects, and two documents that can't be right."""
    good = "\n---\n".join(_document(f"model-{index}", f"hf://org/{index}") for index in range(6))
    text = "\n---\n".join(
        [good, _document("qwen", "hf//org/name"), _document("Qwen 3", "hf://a/b")]
    )
    entries = read_documents(text.encode(), "models.yaml")
    problems = [each for each in entries if isinstance(each, Problem)]
    return Catalog.of([each for each in entries if not isinstance(each, Problem)], problems)


def _document(name: str, uri: str) -> str:
    return (
        "apiVersion: modelcache.dev/v1alpha1\nkind: CachedModel\n"
        f"metadata:\n  name: {name}\nspec:\n  source:\n    uri: {uri}"
    )


def _begun(name: str, gib: float, files: int) -> FetchStarted:
    return FetchStarted(name, revision_of(name), "hf", files, round(gib * GIB), 0)


def _ended(name: str, gib: float, seconds: float) -> FetchEnded:
    return FetchEnded(name, "hf", seconds, round(gib * GIB), None)


def many(number: int = 200) -> Facts:
    """A node with so many models: a few that fail or move, the others ready."""
    gone = NotFound("there is no Qwen/Qwen2-7B at https://huggingface.co, or not for this token")
    absent = failed(_LEFT, gone, before(seconds=20))

    def one(index: int) -> ModelReport:
        name = f"model-{index:03}"
        if index % 50 == 7:
            return _LLAMA.model_copy(update={"name": name})
        if index % 50 == 11:
            return absent.model_copy(update={"name": name})
        return _QWEN.model_copy(update={"name": name, "priority": index % 3})

    found = node(*map(one, range(number)), capacity=40_000)
    return facts(found, *list(busy().happenings) * 8)


def with_names(found: Facts, names: Sequence[str]) -> Facts:
    """The same with other names of its models, whatever is in them."""
    assert found.node is not None
    assert found.status is not None
    models = tuple(
        model.model_copy(update={"name": name, "source": name, "message": name})
        for model, name in zip(found.status.models, names, strict=False)
    )
    status = found.status.model_copy(update={"models": models})
    return replace(found, node=found.node.model_copy(update={"status": status}))
