"""What `modelcache bench load` tells: before it measures, and after."""

from __future__ import annotations

import re
import shlex
import sys
from typing import Any

from modelcache.cli.output import human_bytes, one_line, print_table
from modelcache.host.mounts import Mount
from modelcache.loading import Finding, Study


def announce(study: Study, mount: Mount, refused: str) -> None:
    """Say what is going to be done, before it is done.

    Args:
        study: what.
        mount: where the files are.
        refused: why the read-ahead can't be set; empty: it can.
    """
    plan, bdi = study.plan, study.backing.bdi
    files = "1 file" if len(plan.parts) == 1 else f"{len(plan.parts)} files"
    reads = f"{human_bytes(plan.cell_size)} of {files} at a time, {human_bytes(plan.all_size)}"
    ahead = [f"  leaves read-ahead of bdi {bdi} at {study.present_kb} KiB"]
    if refused:
        ahead[0] += f": {refused}"
    elif values := study.tried:
        ahead = [
            f"  tries {', '.join(map(str, values))} KiB of read-ahead",
            f"  puts back the {study.present_kb} KiB that bdi {bdi} has now",
        ]
    for line in (
        f"{storage(study, mount)}, mounted at {mount.point}",
        *ahead,
        f"  reads {reads} and {_human_time(plan.all_seconds)} in all at most",
        f"  drops {files} from the page cache before each reading, and nothing else",
    ):
        print(_plain_line(line), file=sys.stderr, flush=True)


def _human_time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _plain_line(line: str) -> str:
    """A line without what a terminal takes for a command; its indentation stays."""
    return line[: len(line) - len(line.lstrip())] + one_line(line)


def tell(study: Study, mount: Mount, finding: Finding) -> None:
    """For a person: a table, and what to set."""
    print(_plain_line(storage(study, mount)))
    if found := finding.as_found:
        speed = f"{found.rate / 2**20:.0f} MiB/s by {finding.way.value}"
        print(f"As found, {found.in_memory:.0%} in memory: {speed}. Below, from the device.")
    if finding.figures:
        _tell_figures(finding)
    for note in finding.notes:
        print(f"Note: {one_line(note)}.")
    if finding.read_ahead_kb is None:
        print(f"Nothing recommended: {one_line(finding.reason)}.")
    else:
        rule = f"path:{_pattern(mount)}={finding.read_ahead_kb}"
        print(f"Recommended: {finding.read_ahead_kb} KiB, since {one_line(finding.reason)}.")
        print(f"Set it: modelcache tune --read-ahead {shlex.quote(rule)}")


def _pattern(mount: Mount) -> str:
    """What selects it in a list of rules, which has commas in between."""
    return re.sub(r"[\[*?]", r"[\g<0>]", str(mount.point)).replace(",", "?")


def _tell_figures(finding: Finding) -> None:
    rounds = max(len(figure.rates) for figure in finding.figures)
    print(f"MiB/s: median of {rounds}, ± half of slowest to fastest\n")
    ways = list(dict.fromkeys(figure.way for figure in finding.figures))
    values = sorted(
        {f.read_ahead_kb for f in finding.figures},
        key=lambda kib: (kib is None, kib or 0),
    )
    cells = {
        (f.read_ahead_kb, f.way): f"{f.median / 2**20:.0f} ±{f.spread / 2**20:.0f}"
        for f in finding.figures
    }
    print_table(
        ["READ-AHEAD", *(way.value for way in ways)],
        [[_value(kib, finding), *(cells.get((kib, way), "") for way in ways)] for kib in values],
    )
    print()


def _value(kib: int | None, finding: Finding) -> str:
    if kib is None:
        return "plays no part"
    if kib == finding.present_kb:
        return f"{kib} KiB, now"
    return f"{kib} KiB, best" if kib == finding.read_ahead_kb else f"{kib} KiB"


def storage(study: Study, mount: Mount) -> str:
    """`Amazon EC2 NVMe Instance Storage (nvme1n1, ext4)`."""
    backing = study.backing
    inside = f"{backing.name}, {mount.fs_type}"
    return f"{backing.model} ({inside})" if backing.model else inside


def plain_storage(study: Study, mount: Mount) -> dict[str, Any]:
    """What the files are on, as the document has it."""
    backing = study.backing
    return {
        "bdi": backing.bdi,
        "kind": backing.kind.value,
        "name": backing.name,
        "model": backing.model,
        "filesystem": mount.fs_type,
        "mountPoint": str(mount.point),
    }


def plain(finding: Finding) -> dict[str, Any]:
    """What was found, as the document has it."""
    found = finding.as_found
    return {
        "presentReadAheadKb": finding.present_kb,
        "recommendedReadAheadKb": finding.read_ahead_kb,
        "recommendedFor": finding.way.value,
        "reason": finding.reason,
        "cold": finding.cold,
        "asFound": found
        and {"inMemory": round(found.in_memory, 3), "bytesPerSecond": round(found.rate)},
        "notes": list(finding.notes),
        "figures": [
            {
                "way": figure.way.value,
                "readAheadKb": figure.read_ahead_kb,
                "medianBytesPerSecond": round(figure.median),
                "spreadBytesPerSecond": round(figure.spread),
                "bytesPerSecond": [round(rate) for rate in figure.rates],
            }
            for figure in finding.figures
        ],
    }
