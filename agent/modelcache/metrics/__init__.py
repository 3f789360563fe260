"""Every metric of every program: `contract` says what there is, and each program has a module that
fills it in.

Facts are collected when they are scraped, from what the program has in memory; what happens is
counted as it happens. A scrape looks at nothing else.
"""

from prometheus_client.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE

from modelcache.metrics.agent import Metrics
from modelcache.metrics.collecting import TaskState
from modelcache.metrics.compilecaches import CompileMetrics
from modelcache.metrics.controller import ControllerMetrics, ControllerState
from modelcache.metrics.disk import DiskMetrics
from modelcache.metrics.reconciling import ReconcileMetrics
from modelcache.metrics.scrubbing import ScrubMetrics
from modelcache.metrics.tuner import TunedDevice, TunerMetrics
from modelcache.metrics.warmer import WarmerMetrics, WarmerState, WarmModel
from modelcache.metrics.webhook import WebhookMetrics, WebhookState

__all__ = [
    "CONTENT_TYPE",
    "CompileMetrics",
    "ControllerMetrics",
    "ControllerState",
    "DiskMetrics",
    "Metrics",
    "ReconcileMetrics",
    "ScrubMetrics",
    "TaskState",
    "TunedDevice",
    "TunerMetrics",
    "WarmModel",
    "WarmerMetrics",
    "WarmerState",
    "WebhookMetrics",
    "WebhookState",
]
