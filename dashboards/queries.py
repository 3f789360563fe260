"""The queries' common pieces, in PromQL.

Every target has the labels `cluster` (may be empty) and `node`: docs/monitoring.md. What several
programs of one node say, or two agents for as long as one takes over from the other, is counted
once: `each` takes the greatest of what they say, before anything is summed or joined.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from modelcache.planning.wording import ON_THE_WAY, Stage

NODE: Final = ('cluster=~"$cluster"', 'node=~"$node"')
"""What the variables select, of the metrics of nodes."""

MODEL: Final = (*NODE, 'model=~"$model"')
"""The same, of the metrics that have a model each."""

CLUSTER: Final = NODE[:1]
"""Of the controller and the webhook, which run on any node and speak for all."""

PLACE: Final = "cluster, node"
COPY: Final = "cluster, node, model"
"""What tells one copy of a model from another: a series of each."""

RATE: Final = "$__rate_interval"
RANGE: Final = "$__range"


def of(metric: str, *matchers: str) -> str:
    """The series of a metric.

    >>> of("modelcache_model_state", 'state="Ready"')
    'modelcache_model_state{state="Ready"}'
    """
    return f"{metric}{{{','.join(matchers)}}}"


def each(labels: str, series: str) -> str:
    """One series for each of these labels."""
    return f"max by ({labels}) ({series})"


def copies(metric: str, *matchers: str) -> str:
    """One series for each copy of a model that the variables select."""
    return each(COPY, of(metric, *MODEL, *matchers))


def places(metric: str, *matchers: str) -> str:
    """One series for each node that the variables select."""
    return each(PLACE, of(metric, *NODE, *matchers))


def rate(series: str, by: str = "") -> str:
    """How fast counters grow, a second."""
    return _sum(f"rate({series}[{RATE}])", by)


def grown(series: str, by: str = "", over: str = RANGE) -> str:
    """By how much counters grew: in the time that is shown, or between two points of a graph."""
    return _sum(f"increase({series}[{over}])", by)


def counted_since(series: str) -> str:
    """By how much counters grew in the time that is shown, and what those that began in it say at
    once: a program that is started and counts before it is first scraped has not grown since.

    Where nothing was scraped just when that time began, it is all that was ever counted.
    """
    return f"sum(({series} unless {series} offset {RANGE}) or increase({series}[{RANGE}]))"


def quantile(share: float, histogram: str, *matchers: str, by: str = "", over: str = RANGE) -> str:
    """What a share of the observations was at most, in the time that is shown."""
    labels = f"{by}, le" if by else "le"
    return (
        f"histogram_quantile({share}, {grown(of(f'{histogram}_bucket', *matchers), labels, over)})"
    )


def mean(histogram: str, *matchers: str, by: str = "", over: str = RANGE) -> str:
    """What the observations were in the mean; nothing where there was none."""
    total = grown(of(f"{histogram}_sum", *matchers), by, over)
    return ratio(total, grown(of(f"{histogram}_count", *matchers), by, over))


def ratio(part: str, whole: str) -> str:
    """One by the other; nothing where the other is nothing, rather than a division by zero."""
    return f"{part} / ({whole} > 0)"


def counted(series: str) -> str:
    """How many there are, and 0 where there are none."""
    return f"count({series}) or vector(0)"


WANTED: Final = copies("modelcache_model_wanted")
READY: Final = copies("modelcache_model_state", 'state="Ready"')

WAITED_FOR: Final = f"({WANTED} == 1) and on ({COPY}) ({READY} == 0)"
"""Copies that are wanted and not there."""

FAILING: Final = f"{copies('modelcache_model_failing')} == 1"
"""Copies of which something went wrong that is not right yet, also beside a ready revision."""

_MOVING: Final = copies("modelcache_model_state", f'state=~"{"|".join(sorted(ON_THE_WAY))}"')

MOVING: Final = f"{_MOVING} == 1"
"""Copies that are looked up, fetched or read back, whether or not something goes wrong with it."""

STAGES: Final[Mapping[Stage, str]] = {
    Stage.FAILING: f"{WAITED_FOR} and on ({COPY}) ({FAILING})",
    Stage.UPDATE_FAILING: (
        f"({WANTED} == 1) and on ({COPY}) ({READY} == 1) and on ({COPY}) ({FAILING})"
    ),
    Stage.ON_THE_WAY: f"{WAITED_FOR} and on ({COPY}) ({MOVING}) unless on ({COPY}) ({FAILING})",
    Stage.WAITING: f"{WAITED_FOR} unless on ({COPY}) ({MOVING}) unless on ({COPY}) ({FAILING})",
}
"""The wanted copies in each stage, as `modelcache status` and the page have it; those that are
ready have `READY`."""

_DONE: Final = "modelcache_model_done_bytes"
SPEED: Final = f"({each(COPY, f'deriv({of(_DONE, *MODEL)}[{RATE}])')} > 0) and on ({COPY}) {MOVING}"
"""Bytes a second that they grow by; nothing of those that stand still."""

LEFT: Final = (
    f"({copies('modelcache_model_size_bytes')} - on ({COPY}) {copies(_DONE)})"
    f" and on ({COPY}) {MOVING}"
)
"""Bytes that are still to come for them."""

STILL: Final = f"({LEFT}) / on ({COPY}) ({SPEED})"
"""Seconds until they are there, as fast as they come now."""

PROGRESS: Final = (
    f"({copies(_DONE)} / on ({COPY}) ({copies('modelcache_model_size_bytes')} > 0))"
    f" and on ({COPY}) {MOVING}"
)
"""How far they are, 0 to 1."""

DRIFTED: Final = (
    f"{each('cluster, node, device', of('modelcache_read_ahead_bytes', *NODE))}"
    f" != on (cluster, node, device)"
    f" {each('cluster, node, device', of('modelcache_read_ahead_wanted_bytes', *NODE))}"
)
"""Devices whose read-ahead is not what it is to be."""

BEHIND: Final = f"time() - {places('modelcache_reconcile_last_success_timestamp_seconds')}"
"""Seconds since an agent's last whole round."""


def _sum(series: str, by: str) -> str:
    return f"sum by ({by}) ({series})" if by else f"sum({series})"
