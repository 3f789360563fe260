"""`make bench`: fetching a model, bringing it into memory, starting an engine that
compiles, scraping an agent, and the agents of a large cluster."""

from __future__ import annotations

import argparse
import signal
import sys

from tests.bench import compiling, fetching, scale, scraping, warming

_PARTS = ("fetching", "warming", "compiling", "scraping", "cluster")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--only", choices=_PARTS)
    parser.add_argument("--rounds", type=int, default=5, help="of each client (5)")
    parser.add_argument("--client", action="append", default=[], help="a part of its name")
    parser.add_argument("--case", action="append", default=[], choices=fetching.NAMES)
    parser.add_argument("--no-tls", action="store_true", help="plain HTTP only")
    chosen = parser.parse_args()
    # What was started is stopped, and gigabytes are removed.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(130))
    if chosen.only in (None, "fetching"):
        fetching.run(chosen.rounds, chosen.client, chosen.case, tls=not chosen.no_tls)
    if chosen.only in (None, "warming"):
        warming.run(chosen.rounds)
    if chosen.only in (None, "compiling"):
        compiling.run(chosen.rounds)
    if chosen.only in (None, "scraping"):
        scraping.run(models=200)
    if chosen.only in (None, "cluster"):
        scale.run(nodes=500, models=50, processes=5)
    return 0


if __name__ == "__main__":
    sys.exit(main())
