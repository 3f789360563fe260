"""What programs answer to a scrape, held against Prometheus' own linter and against our table."""

from __future__ import annotations

import subprocess

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from modelcache.metrics.contract import FAMILIES, Family, InfoFamily, Program

Values = dict[tuple[str, ...], float]
"""Values by the series' name and its labels' values, in the order of the labels' names."""


def values(exposition: str) -> Values:
    """All of an exposition."""
    return {_key(sample): sample.value for sample in _samples(exposition)}


def check(exposition: str, program: Program) -> Values:
    """Hold an exposition against the linter and the table; its values.

    Raises:
        AssertionError
    """
    linted = subprocess.run(
        ["promtool", "check", "metrics"], input=exposition.encode(), capture_output=True, timeout=30
    )
    assert (linted.returncode, linted.stdout, linted.stderr) == (0, b"", b"")
    families = {name: each for each in FAMILIES for name in each.exposed}
    for sample in _samples(exposition):
        assert sample.name in families, "it is not in the table"
        family = families[sample.name]
        assert program in family.programs, (sample.name, program)
        _check_labels(sample, family)
    helped = {line.split()[2] for line in exposition.splitlines() if line.startswith("# HELP")}
    missing = {family.name for family in FAMILIES if program in family.programs} - helped
    assert not missing - _SOMETIMES, "they are in the table, and nothing is said of them"
    return values(exposition)


_SOMETIMES = {
    # Without a name of their own there is none of them, and so no line of help.
    "modelcache_disk_inodes",
    "modelcache_disk_inodes_free",
}


def _check_labels(sample: Sample, family: Family) -> None:
    facts = family.facts if isinstance(family, InfoFamily) else ()
    labels = {label.name: label for label in (*family.labels, *facts)}
    given = {name: value for name, value in sample.labels.items() if name != "le"}
    assert given.keys() == labels.keys(), sample.name
    for name, value in given.items():
        closed = labels[name].values
        assert closed is None or value in closed, (sample.name, name, value)


def _samples(exposition: str) -> list[Sample]:
    families = text_string_to_metric_families(exposition)
    return [sample for family in families for sample in family.samples]


def _key(sample: Sample) -> tuple[str, ...]:
    return (sample.name, *(value for _, value in sorted(sample.labels.items())))
