"""Nodes as the status page tells of them: a quiet one, a busy one, and one that needs help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from modelcache.api import Condition, ModelReport, ModelState, NodeCache, NodeCacheStatus, PageCache
from modelcache.api.nodecache import (
    CatalogReport,
    CompileReport,
    CompileState,
    DiskReport,
    NodeMeta,
    StartReport,
    WithdrawnBundle,
)
from modelcache.errors import Reason
from modelcache.service.happenings import Happening
from modelcache.service.page import Facts, ReadAhead
from modelcache.service.reporting import DISK_CONDITION

NOW: Final = datetime(2026, 11, 22, 9, 41, 7, tzinfo=UTC)
GIB: Final = 1 << 30
_SINCE: Final = NOW - timedelta(days=3, hours=5)

__all__ = ["EMPTY", "NOW", "STARTING", "busy", "failing", "many", "ready", "well"]


def before(**ago: float) -> datetime:
    """So long before now."""
    return NOW - timedelta(**ago)


def ready(name: str, source: str, gib: float, files: int, **more: Any) -> ModelReport:
    """A model that is there."""
    size = round(gib * GIB)
    fields: dict[str, Any] = {
        "revision": "9f2d1c7ab0e4" + "0" * 28,
        "bytes_done": size,
        "bytes_total": size,
        "files": files,
        "resident_bytes": 0,
        "finished_at": before(days=2),
        **more,
    }
    return ModelReport(name=name, state=ModelState.READY, source=source, **fields)


def node(*models: ModelReport, name: str = "gpu-pool-a-7f3k", **more: Any) -> NodeCache:
    """A node's report."""
    used = sum(model.bytes_done for model in models)
    fields: dict[str, Any] = {
        "disk": DiskReport(
            capacity=3500 * GIB,
            available=max(0, 2975 * GIB - used),
            used=used,
            reserved=0,
            taken=used + 3 * GIB if used else 0,
            budget=2975 * GIB,
            free=max(0, 3400 * GIB - used),
            inodes=233_000_000,
            inodes_free=231_000_000,
        ),
        "catalog": CatalogReport(objects=len(models)),
        "conditions": (_disk("True", "DiskOk", "the disk is well"),),
        **more,
    }
    status = NodeCacheStatus(
        agent_version="0.1.0", root="/var/lib/modelcache", models=models, **fields
    )
    return NodeCache(metadata=NodeMeta(name=name), status=status)


def _disk(status: str, reason: str, message: str) -> Condition:
    found: dict[str, Any] = {"status": status, "reason": reason, "message": message}
    return Condition(type=DISK_CONDITION, last_transition_time=before(minutes=12), **found)


def facts(found: NodeCache | None, *events: Happening, **more: Any) -> Facts:
    """What the page tells of a node."""
    fields: dict[str, Any] = {
        "now": NOW,
        "since": _SINCE,
        "version": "0.1.0",
        "age": 0.4,
        "happenings": events,
        "read_ahead": ReadAhead("nvme1n1", 8 << 20),
        "watermarks": (0.9, 0.8),
        **more,
    }
    return Facts(node=found, **fields)


def event(reason: str, about: str, note: str, **more: Any) -> Happening:
    """Something that happened; `ago` in seconds."""
    at = before(seconds=more.pop("ago"))
    return Happening(at, more.pop("warns", False), reason, about, note, **more)


STARTING: Final = facts(None, event("AgentStarted", "", "modelcache 0.1.0", ago=2), since=NOW)
EMPTY: Final = facts(
    node(), event("AgentStarted", "", "modelcache 0.1.0", ago=40), since=before(seconds=40)
)

_QWEN: Final = ready(
    *("qwen3-32b", "hf://Qwen/Qwen3-32B", 61.1, 27),
    resident_bytes=round(61.1 * GIB * 0.874),
    used_by=2,
    priority=10,
    page_cache=PageCache.WARM,
)
_EMBED: Final = ready(
    *("bge-m3", "hf://BAAI/bge-m3", 2.12, 14), last_used_at=before(hours=3, minutes=10)
)
_ADAPTERS: Final = ready(
    *("support-adapters", "s3://models/adapters/support/", 0.84, 36),
    resident_bytes=round(0.84 * GIB),
    used_by=1,
    pinned=True,
)
_LLAMA: Final = ModelReport(
    name="llama-3-3-70b",
    state=ModelState.DOWNLOADING,
    source="hf://meta-llama/Llama-3.3-70B-Instruct",
    revision="6f6073b423013f6a7d4d9f39144961bfbfbc386b",
    bytes_done=round(84.3 * GIB),
    bytes_total=round(131.4 * GIB),
    files=42,
    started_at=before(minutes=4),
    missing_since=before(minutes=5),
)
_WHISPER: Final = ModelReport(
    name="whisper-large-v3",
    state=ModelState.VERIFYING,
    source="oci://registry.example/speech/whisper:v3",
    revision="sha256:4be1a7c90d52" + "0" * 52,
    bytes_done=round(2.2 * GIB),
    bytes_total=round(2.9 * GIB),
    files=9,
    missing_since=before(seconds=50),
)
_MIXTRAL: Final = ModelReport(
    name="mixtral-8x22b",
    state=ModelState.PENDING,
    source="gs://models-eu/mixtral-8x22b/",
    message="waits: as many nodes as may fetch the same at the same time do so",
    missing_since=before(minutes=5),
)
_OLD: Final = ready(
    *("qwen2-7b", "hf://Qwen/Qwen2-7B", 14.2, 12),
    wanted=False,
    unwanted_since=before(minutes=6),
    last_used_at=before(days=1),
)
_COMPILED: Final = CompileReport(
    name="qwen3-32b-vllm",
    state=CompileState.READY,
    accelerator="NVIDIA H200, CUDA 12.8, vllm 0.11.0",
    digest="sha256:" + "c81f0a3b5d77" + "0" * 52,
    bytes=412 << 20,
    created_at=before(days=1, hours=4),
    verified=True,
    last_start=StartReport(result="Hit", at=before(minutes=34), compile_milliseconds=9_400),
)
_UNCOMPILED: Final = CompileReport(
    name="llama-3-3-70b-vllm",
    state=CompileState.MISSING,
    accelerator="NVIDIA H200, CUDA 12.8, vllm 0.11.0",
    message="nothing was published for this node's key; others differ in: driver",
    last_start=StartReport(
        result="Miss",
        at=before(hours=7),
        compile_milliseconds=214_000,
        reason="NothingSeeded",
        message="nothing was there to be seeded from",
    ),
)


def well() -> Facts:
    """All is there."""
    llama = ready("llama-3-3-70b", "hf://meta-llama/Llama-3.3-70B-Instruct", 131.4, 42, used_by=1)
    whisper = ready("whisper-large-v3", "oci://registry.example/speech/whisper:v3", 2.9, 9)
    return facts(
        node(_QWEN, llama, _EMBED, whisper, _ADAPTERS, compile_caches=(_COMPILED,)),
        event("ModelReady", "llama-3-3-70b", "revision 9f2d1c7ab0e4 is ready, 42 files", ago=5_000),
        event("FetchEnded", "llama-3-3-70b", "131.4 GiB came in 326 s, 412.7 MiB/s", ago=5_001),
        event("AgentStarted", "", "modelcache 0.1.0", ago=277_200),
    )


def busy() -> Facts:
    """Some models are there, some are coming."""
    return facts(
        node(
            *(_QWEN, _LLAMA, _EMBED, _WHISPER, _MIXTRAL, _ADAPTERS, _OLD),
            compile_caches=(_COMPILED, _UNCOMPILED),
        ),
        event("FetchStarted", "llama-3-3-70b", "a fetch of 131.4 GiB in 42 files begins", ago=240),
        event(
            *("ModelReady", "support-adapters", "revision 9f2d1c7ab0e4 is ready, 36 files"), ago=409
        ),
        event("FetchEnded", "support-adapters", "860.2 MiB came in 4.1 s, 209.8 MiB/s", ago=410),
        event("CompileCacheReady", "qwen3-32b-vllm", "bundle c81f0a3b5d77 is ready", ago=2100),
        event(
            *("HostPaused", "llama-3-3-70b"),
            "huggingface.co asks for fewer requests: it gets 8 connections",
            ago=3000,
            warns=True,
            count=3,
        ),
        event("AgentStarted", "", "modelcache 0.1.0", ago=277_200),
        rates={"llama-3-3-70b": 412.0 * (1 << 20)},
    )


def failing() -> Facts:
    """Much is wrong: tokens, room, a document, the disk."""
    gated = ModelReport(
        name="llama-3-3-70b",
        state=ModelState.FAILED,
        source="hf://meta-llama/Llama-3.3-70B-Instruct",
        reason=Reason.AUTH_FAILED,
        message="huggingface.co refuses access to meta-llama/Llama-3.3-70B-Instruct (403): accept"
        " its licence with the account of the token in Secret hf-token, key token",
        attempts=7,
        missing_since=before(hours=2, minutes=20),
        retry_at=NOW + timedelta(minutes=21, seconds=40),
    )
    large = ModelReport(
        name="deepseek-v3",
        state=ModelState.FAILED,
        source="hf://deepseek-ai/DeepSeek-V3",
        reason=Reason.INSUFFICIENT_DISK,
        message="deepseek-v3 needs 641.3 GiB and /var/lib/modelcache has 212.0 GiB to give (15.0"
        " GiB are kept free): 429.3 GiB are missing, even if all goes that may",
        bytes_total=round(641.3 * GIB),
        attempts=2,
        missing_since=before(minutes=24),
        retry_at=NOW + timedelta(minutes=3),
    )
    held_up = _LLAMA.model_copy(
        update={
            "name": "mistral-small",
            "source": "https://mirror.example/mistral-small/",
            "reason": Reason.ORIGIN_UNAVAILABLE,
            "message": "mirror.example doesn't answer (timed out after 30 s)",
        }
    )
    stale = _EMBED.model_copy(
        update={
            "reason": Reason.NOT_FOUND,
            "message": "hf://BAAI/bge-m3 has no revision 'v2'; there are main",
            "attempts": 1,
            "retry_at": NOW + timedelta(seconds=48),
        }
    )
    withdrawn = _COMPILED.model_copy(
        update={
            "state": CompileState.FAILED,
            "digest": None,
            "verified": False,
            "reason": Reason.CHECKSUM_MISMATCH,
            "message": "the bundle is signed by no key that this node trusts",
            "attempts": 3,
            "retry_at": NOW + timedelta(minutes=9),
            "withdrawn": (WithdrawnBundle(digest="sha256:" + "0" * 64, key="0" * 64),),
            "last_start": StartReport(
                result="Miss",
                at=before(minutes=15),
                compile_milliseconds=187_000,
                reason="LoadFailed",
                message="the engine could not load the bundle: Triton 3.4 is not 3.3",
            ),
        }
    )
    problems = (
        "models.yaml, document 3, line 41: spec.source.uri: hf//org/name has no scheme",
        "models.yaml, document 5, line 66: metadata.name: 'Qwen 3' is no name",
    )
    return facts(
        node(
            *(_QWEN, gated, large, held_up, stale),
            compile_caches=(withdrawn,),
            disk=DiskReport(
                capacity=900 * GIB,
                available=0,
                used=688 * GIB,
                reserved=47 * GIB,
                taken=741 * GIB,
                budget=765 * GIB,
            ),
            catalog=CatalogReport(objects=6, problems=problems, problem_count=2),
            conditions=(
                _disk(
                    *("False", "ReadErrors"),
                    "2 files could not be read in the last hour (Input/output error): the disk may"
                    " be failing",
                ),
            ),
        ),
        event(
            *("ModelAuthFailed", "llama-3-3-70b", gated.message or ""), ago=95, warns=True, count=7
        ),
        event("FileDamaged", "bge-m3", "a file is not what it was", ago=700, warns=True),
        event("Evicted", "qwen2-7b", "evicted, 14.2 GiB freed: unused for 2 d", ago=1280),
        event("EvictionBlocked", "deepseek-v3", large.message or "", ago=1290, warns=True),
        event("AgentStarted", "", "modelcache 0.1.0", ago=277_200),
    )


def many(number: int = 200) -> Facts:
    """A node with so many models: a few that fail or move, the others ready."""

    def one(index: int) -> ModelReport:
        name = f"model-{index:03}"
        if index % 50 == 7:
            return _LLAMA.model_copy(update={"name": name})
        if index % 50 == 11:
            failed = {"name": name, "state": ModelState.FAILED, "reason": Reason.NOT_FOUND}
            return _MIXTRAL.model_copy(update={**failed, "attempts": 2})
        return _QWEN.model_copy(update={"name": name, "priority": index % 3})

    return facts(node(*map(one, range(number))), *list(busy().happenings) * 8)


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
