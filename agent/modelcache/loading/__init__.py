"""How fast files load, by read-ahead and way of reading, and which read-ahead is best."""

from modelcache.loading.plan import Cell, Limits, Plan
from modelcache.loading.reader import ReadFailed
from modelcache.loading.studying import (
    VALUES,
    Finding,
    Study,
    best_read_ahead,
    carry_out,
    prepare,
)
from modelcache.loading.verdict import Figure
from modelcache.loading.ways import Done, Way

__all__ = [
    "VALUES",
    "Cell",
    "Done",
    "Figure",
    "Finding",
    "Limits",
    "Plan",
    "ReadFailed",
    "Study",
    "Way",
    "best_read_ahead",
    "carry_out",
    "prepare",
]
