"""By which rules something goes when room is needed, and what keeps something where it is."""

from __future__ import annotations

from enum import StrEnum


class Rule(StrEnum):
    """By which rule something goes. In the order in which they are applied; the last two together,
    by priority."""

    LEFTOVER = "Leftover"
    QUARANTINE = "Quarantine"
    UNWANTED = "Unwanted"
    OLD_REVISION = "OldRevision"
    LOWER_PRIORITY_FETCH = "LowerPriorityFetch"
    LOWER_PRIORITY = "LowerPriority"


class Hold(StrEnum):
    """What keeps something where it is."""

    IN_USE = "InUse"
    USE_UNKNOWN = "UseUnknown"
    GRACE = "Grace"
    DOUBT = "Doubt"
    PINNED = "Pinned"
    PRIORITY = "Priority"
    WANTED = "Wanted"
    FETCHING = "Fetching"
    NOT_NEEDED = "NotNeeded"
    IN_VAIN = "InVain"
