"""An engine that is quick: what it "compiles" are files that it writes where torch would.

It prints `compiled` or `loaded`. Options: --bytes N (how large), --files N (or --files-of FILE:
read there), --serve (until a signal), --exit CODE, --failing (says as vLLM does that it couldn't
load what is there), --hold FIFO (waits until somebody writes to it before it compiles),
--api-key KEY (which it leaves where vLLM was seen to: in cache_key_factors.json, and in its log),
--downloads DIRECTORY (as the Hub's library has a model there).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bytes", type=int, default=1000)
    parser.add_argument("--files", type=int, default=3)
    parser.add_argument("--files-of", type=Path)
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--exit", type=int, default=0)
    parser.add_argument("--failing", action="store_true")
    parser.add_argument("--model", default="")
    parser.add_argument("--hold", type=Path)
    parser.add_argument("--api-key", default="")
    parser.add_argument("--downloads", type=Path)
    chosen = parser.parse_args()
    stop = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    if chosen.hold:
        chosen.hold.read_bytes()
    if chosen.failing:
        print("WARNING 11-22 05:00:00 [backends.py:1] Compiling model again due to a load failure")
        print("INFO:     Application startup complete.")
    if chosen.downloads:
        snapshot = chosen.downloads / "snapshots" / ("c" * 40)
        snapshot.mkdir(parents=True, exist_ok=True)
        (snapshot / "config.json").write_text("{}")
        (chosen.downloads / "refs").mkdir(exist_ok=True)
        (chosen.downloads / "refs" / "main").write_text("c" * 40)
    cache = Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR") or "/nowhere")
    count = int(chosen.files_of.read_text()) if chosen.files_of else chosen.files
    files = [cache / "fxgraph" / f"{number}.bin" for number in range(count)]
    done = all(file.exists() for file in files)
    print("loaded" if done else "compiled", flush=True)
    if not done and cache != Path("/nowhere"):
        for number, file in enumerate(files):
            if file.exists():
                continue
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(random.Random(number).randbytes(chosen.bytes))
        if chosen.api_key:
            factors = json.dumps({"env": {"VLLM_API_KEY": chosen.api_key}})
            (files[0].parent / "cache_key_factors.json").write_text(factors)
            said = f"--api-key={chosen.api_key}"
            print(f"INFO [monitor.py:1] torch.compile took 1.00 s in total ({said})", flush=True)
    if chosen.serve:
        signal.sigwait(stop)
    code: int = chosen.exit
    return code


if __name__ == "__main__":
    sys.exit(main())
