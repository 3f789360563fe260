"""`modelcache top` in a terminal of eighty columns, beside an agent that has much to do."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Final

from tests.screenshots.saving import save
from tests.support.agent import AgentProcess, write_catalog
from tests.support.chromium import Chromium, Screen
from tests.support.hub import GeneratedContent, HubServer
from tests.support.screens import Terminal, as_html

MIB: Final = 1 << 20
RATE: Final = 16 * MIB
READY: Final = {"bge-m3": 24, "whisper-large-v3": 60, "qwen3-0-6b": 48, "gemma-3-1b": 90}
MOVING: Final = {"llama-3-8b": 900, "mistral-7b": 600}
GATED: Final = "llama-4-scout"
_WIDTH, _HEIGHT = 80, 20


def take(chromium: Chromium, folder: Path) -> None:
    """Take `top.png`."""
    with tempfile.TemporaryDirectory(prefix="top-") as place, HubServer() as hub:
        for seed, (name, size) in enumerate({**READY, **MOVING}.items()):
            content = GeneratedContent(size * MIB, seed=seed)
            hub.add_repo(f"demo/{name}", {"model.safetensors": content, "config.json": b"{}"})
        hub.add_repo(f"demo/{GATED}", {"model.safetensors": b"x"}, gated=True, token="another's")
        with _agent(hub, Path(place)) as agent:
            agent.wait_ready(*READY)
            agent.wait_failed(GATED)
            hub.set_rate(RATE)
            _extend(Path(place), MOVING)
            picture = _shown(agent)
    with chromium.show(picture, Screen(680, 400, scale=1.5)) as page:
        save(page.picture("main"), folder / "top.png")


def _agent(hub: HubServer, place: Path) -> AgentProcess:
    _extend(place, {})
    return AgentProcess(
        place / "root",
        place / "catalog.yaml",
        *("--node-name", "gpu-17"),
        env={"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"},
    )


def _extend(place: Path, more: dict[str, int]) -> None:
    models: list[dict[str, Any]] = [
        {"name": name, "uri": f"hf://demo/{name}"} for name in (*READY, *more)
    ]
    models.append({"name": GATED, "uri": f"hf://demo/{GATED}"})
    write_catalog(place / "catalog.yaml", *models)


def _shown(agent: AgentProcess) -> str:
    """What is to be seen once both have a rate and some way to go."""
    listen = agent.url.removeprefix("http://")
    with Terminal(width=_WIDTH, height=_HEIGHT, env={"MODELCACHE_LISTEN": listen}) as terminal:
        terminal.type("modelcache top --every 0.5")
        terminal.wait_for(lambda text: text.count("iB/s") >= 3, 60)
        terminal.wait_for(_is_on_its_way, 60)
        return as_html(terminal.coloured, _WIDTH)


def _is_on_its_way(text: str) -> bool:
    shares = [word for word in text.split() if word.endswith("%")]
    return len(shares) == len(MOVING) and all(int(share[:-1]) >= 9 for share in shares)
