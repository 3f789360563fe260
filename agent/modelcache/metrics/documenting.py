"""Writes `docs/metrics.md` from the table of all metrics: `make metrics`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from modelcache.metrics.contract import (
    SECTIONS,
    Family,
    HistogramFamily,
    InfoFamily,
    Label,
    Program,
)
from modelcache.metrics.lasting import LASTING_SECONDS

_HEAD = """\
# Metrics

<!-- Written by `make metrics` from the table in agent/modelcache/metrics/contract: edit that. -->

Each program has them at `/metrics` of its port, in Prometheus' text format. A scrape looks at no
disk and asks nobody: it tells what the program knows already. What it costs with 200 models is in
[Benchmarks](benchmarks.md#what-a-scrape-costs).

Labels are bounded: names of objects of the catalog or of what is here, and closed sets. Counters
begin at 0 when a program starts; those of closed sets, and of origins that the catalog has, are
there from the start, so that `increase()` sees the first event. Those of a model or a compile cache
stay for {hours} after it is gone, so that it sees the last.

| job | program | port |
|---|---|---|
"""

_PORTS = {
    Program.AGENT: ("the agent on each node", "`http` of the DaemonSet `modelcache-agent`"),
    Program.TUNER: ("the read-ahead tuner on each node", "`tuner-http` of the same pod"),
    Program.WARMER: ("the page-cache warmer on each node", "`warmer-http` of the same pod"),
    Program.CONTROLLER: ("the controller", "`http` of the Deployment `modelcache-controller`"),
    Program.WEBHOOK: ("the webhook", "`webhook-http` of the Deployment `modelcache-controller`"),
}


def page() -> str:
    """The whole page."""
    jobs = (f"| `{each.job}` | {' | '.join(_PORTS[each])} |\n" for each in Program)
    head = _HEAD.format(hours=_span(LASTING_SECONDS))
    return head + "".join(jobs) + "".join(_sections())


def _sections() -> Iterator[str]:
    for section in SECTIONS:
        yield f"\n## {section.title}\n\n{section.about.strip()}\n\n"
        programs = {family.programs for family in section.families}
        mixed = len(programs) > 1
        if not mixed:
            jobs = ", ".join(f"`{program.job}`" for program in programs.pop())
            yield f"Exposed by {jobs}.\n\n"
        else:
            yield "Exposed by `modelcache-agent`, if nothing else is said.\n\n"
        yield "| metric | kind | what it is |\n|---|---|---|\n"
        for family in section.families:
            yield _row(family, told=mixed)
        yield from _labels(section.families)


def _row(family: Family, *, told: bool) -> str:
    labels = f"{{{','.join(family.label_names)}}}" if family.labels else ""
    what = family.help
    if isinstance(family, InfoFamily):
        what += f" Tells {', '.join(f'`{fact.name}`' for fact in family.facts)}."
    if isinstance(family, HistogramFamily):
        what += f" Buckets from {_span(family.buckets[0])} to {_span(family.buckets[-1])}."
    if told and family.programs != (Program.AGENT,):
        all_ = family.programs == tuple(Program)
        what += f" Of {'all' if all_ else 'the ' + ', '.join(family.programs)}."
    return f"| `{family.name}{labels}` | {family.kind} | {what} |\n"


def _labels(families: tuple[Family, ...]) -> Iterator[str]:
    found: dict[Label, list[str]] = {}
    for family in families:
        for label in (*family.labels, *(family.facts if isinstance(family, InfoFamily) else ())):
            found.setdefault(label, []).append(family.name)
    if found:
        yield "\n"
    many = {label.name for label in found if sum(o.name == label.name for o in found) > 1}
    for label, names in found.items():
        of = f" of {', '.join(f'`{name}`' for name in names)}" if label.name in many else ""
        values = "" if label.values is None else f"; one of {_values(label.values)}"
        yield f"- `{label.name}`{of}: {label.about}{values}\n"


def _values(values: tuple[str, ...]) -> str:
    told = [value for value in values if value]
    if all(value.isdigit() for value in told[:-1]) and len(told) > 3:
        return f"a number, or `{told[-1]}`"
    return ", ".join(f"`{value}`" for value in told)


def _span(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min"), (1, "s")):
        if seconds >= size:
            return f"{seconds / size:g} {unit}"
    return f"{seconds * 1000:g} ms"


def main(arguments: list[str]) -> int:
    """Write the page to a file. Exit codes: 0, or 2 for a wrong command line."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m modelcache.metrics.documenting FILE\n")
        return 2
    Path(arguments[0]).write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
