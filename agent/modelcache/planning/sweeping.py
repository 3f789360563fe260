"""How long what crashes and fetches left is kept from a sweep, which asks for no reason."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from modelcache.api import ModelReport, ModelState

_SECONDS: Final = 86_400.0
_LATE_SECONDS: Final = 7 * 86_400.0


def swept_after(reports: Iterable[ModelReport], *, told: bool = True) -> float:
    """For how many seconds what nobody adds to is kept.

    While something that is wanted is not here, or not as it is to be, what an origin had given that
    is away for some days is not to be fetched again. The same where no agent has told what is
    wanted.
    """
    unfinished = (
        report.wanted and (report.state is not ModelState.READY or report.reason is not None)
        for report in reports
    )
    return _LATE_SECONDS if not told or any(unfinished) else _SECONDS
