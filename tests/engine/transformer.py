"""A small transformer, compiled by torch.compile for the CPU: the engine of these tests.

Run by the torch of `.venv-engine`, so it knows nothing of us. It prints one JSON document when it
is ready: how long it compiled, and a number that tells whether it computed the same. With
`--serve` it stays until it is told to stop, as an engine does.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import time
from importlib import import_module
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--serve", action="store_true")
    chosen = parser.parse_args()

    stop = {signal.SIGTERM, signal.SIGINT}
    if chosen.serve:
        signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    torch: Any = import_module("torch")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = _transformer(torch, chosen.layers, chosen.width)
    batch = torch.rand(2, 16, chosen.width)
    compiled = torch.compile(model)
    began, before = time.perf_counter(), _cpu_seconds()
    with torch.no_grad():
        total = float(compiled(batch).sum())
    seconds, cpu = time.perf_counter() - began, _cpu_seconds() - before
    document = {
        "torch": torch.__version__,
        "seconds": round(seconds, 3),
        "cpuSeconds": round(cpu, 3),
        "sum": round(total, 4),
        "graphs": {name: count for name, count in _counters() if name.startswith("fxgraph")},
    }
    print(json.dumps(document), flush=True)
    if chosen.serve:
        signal.sigwait(stop)


def _transformer(torch: Any, layers: int, width: int) -> Any:
    """Pre-norm blocks with attention and an MLP; attention written out, so that it is compiled."""
    nn = torch.nn

    class Block(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: Any) -> Any:
            batch, tokens, _ = x.shape
            heads, depth = 4, width // 4
            parts = self.qkv(self.before(x)).view(batch, tokens, 3, heads, depth)
            q, k, v = parts.permute(2, 0, 3, 1, 4)
            weights = torch.softmax(q @ k.transpose(-1, -2) / depth**0.5, -1)
            x = x + self.out((weights @ v).transpose(1, 2).reshape(batch, tokens, width))
            return x + self.down(nn.functional.gelu(self.up(self.after(x))))

    return nn.Sequential(*(Block() for _ in range(layers))).eval()


def _counters() -> Any:
    return import_module("torch._dynamo.utils").counters["inductor"].items()


def _cpu_seconds() -> float:
    """Of this process and of the compilers that it started: how busy the machine is, doesn't
    count."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    used = [resource.getrusage(kind) for kind in kinds]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


if __name__ == "__main__":
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no pool of processes: less noise
    main()
