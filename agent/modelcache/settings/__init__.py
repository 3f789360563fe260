"""The settings of each program: every one an environment variable `MODELCACHE_…` and a flag of the
same name.

The descriptions are the help texts of the flags.
"""

from modelcache.settings.agent import AgentSettings
from modelcache.settings.compilepods import CaptureSettings, SeedSettings
from modelcache.settings.controller import ControllerSettings
from modelcache.settings.shared import (
    ClusterSettings,
    FetchSettings,
    LogSettings,
    StoreSettings,
)
from modelcache.settings.status import StatusSettings
from modelcache.settings.taints import AUTOSCALERS_STARTUP_TAINTS, STARTUP_TAINT
from modelcache.settings.tune import TuneSettings
from modelcache.settings.upkeep import CleanupSettings, PrepareSettings
from modelcache.settings.values import parse_size
from modelcache.settings.warming import WarmSettings
from modelcache.settings.webhook import WebhookSettings

__all__ = [
    "AUTOSCALERS_STARTUP_TAINTS",
    "STARTUP_TAINT",
    "AgentSettings",
    "CaptureSettings",
    "CleanupSettings",
    "ClusterSettings",
    "ControllerSettings",
    "FetchSettings",
    "LogSettings",
    "PrepareSettings",
    "SeedSettings",
    "StatusSettings",
    "StoreSettings",
    "TuneSettings",
    "WarmSettings",
    "WebhookSettings",
    "parse_size",
]
