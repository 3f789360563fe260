"""A Hugging Face Hub of the suite's own, honest by default and hostile on request."""

from tests.support.hub.content import BytesContent, Content, GeneratedContent
from tests.support.hub.faults import (
    Fault,
    FlipBit,
    IgnoreRange,
    Replace,
    Reset,
    ShortBody,
    Stall,
    Status,
    Trickle,
    WrongContentRange,
    WrongLength,
)
from tests.support.hub.repository import File, Source
from tests.support.hub.server import HubServer
from tests.support.hub.traffic import Request

__all__ = [
    "BytesContent",
    "Content",
    "Fault",
    "File",
    "FlipBit",
    "GeneratedContent",
    "HubServer",
    "IgnoreRange",
    "Replace",
    "Request",
    "Reset",
    "ShortBody",
    "Source",
    "Stall",
    "Status",
    "Trickle",
    "WrongContentRange",
    "WrongLength",
]
