"""The way that a range takes: to the origin or to a mirror, and whether its host may be asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from modelcache.errors import OriginUnavailable, RateLimited
from modelcache.origins.protocol import HttpLocation, Location
from modelcache.transfer.hosts import Hosts, Pause
from modelcache.transfer.mirroring import Mirrors
from modelcache.transfer.tuning import TransferSettings

if TYPE_CHECKING:
    from modelcache.transfer.jobs import FileTask


@dataclass(frozen=True, slots=True)
class Way:
    """Where one unit of work goes.

    Attributes:
        host: the host that it is a connection to; empty for none.
        location: where the bytes are, at the origin or at a mirror; None: the origin is asked that.
    """

    host: str = ""
    location: Location | None = None

    @property
    def mirror(self) -> str | None:
        """The mirror's URL; None: it leads to the origin."""
        return self.location.mirror if isinstance(self.location, HttpLocation) else None


class Ways:
    """Hosts and mirrors together. Guarded by the engine's lock."""

    def __init__(self, settings: TransferSettings) -> None:
        self.hosts = Hosts(
            settings.connections,
            settings.host_connections,
            first_delay=settings.first_delay,
            most_delay=settings.most_delay,
        )
        self.mirrors = Mirrors()

    def to_open(self, host: str, now: float) -> Way | None:
        """The way to a file's location, which `host` is asked for; None: not now."""
        return Way(host) if self.hosts.free(host, now) else None

    def to_fetch(self, task: FileTask, origin: str, now: float) -> Way | None:
        """The way to a file's bytes; None: not now.

        Where its location has expired it leads one to `origin`, the host that is asked for another,
        and the others nowhere meanwhile.
        """
        assert task.fetch is not None
        location = task.fetch.location
        if location is None:
            return None if task.renewing else self.to_open(origin, now)
        if not isinstance(location, HttpLocation):
            return Way(location=location)
        chosen = self.mirrors.choose(location, task.barred, now) or location
        host = urlsplit(chosen.url).netloc
        return Way(host, chosen) if self.hosts.free(host, now) else None

    def began(self, way: Way) -> None:
        """Somebody goes."""
        self.hosts.began(way.host)
        if way.mirror is not None:
            self.mirrors.began(way.mirror)

    def ended(self, way: Way, began: float) -> None:
        """Somebody is back."""
        self.hosts.ended(way.host)
        if way.mirror is not None:
            self.mirrors.ended(way.mirror, began)

    def went_well(self, way: Way, began: float, now: float) -> None:
        """What was asked for came."""
        self.hosts.went_well(way.host, began, now)
        if way.mirror is not None:
            self.mirrors.went_well(way.mirror, began)

    def located(self, way: Way, location: Location, began: float, now: float) -> None:
        """A location was found.

        Whether its host was asked for it isn't known where it is a place on that very host, which
        may be known beforehand, or where only the bytes will tell the checksums.
        """
        if not isinstance(location, HttpLocation) or location.checksums_of is not None:
            return
        if urlsplit(location.url).netloc != way.host:
            self.hosts.went_well(way.host, began, now)

    def refused(self, way: Way, error: BaseException, began: float, now: float) -> Pause | None:
        """What was asked for did not come; the host's pause, if it wants one."""
        if not asks_for_less(error):
            return None
        wish = error.retry_after if isinstance(error, OriginUnavailable) else None
        return self.hosts.slow_down(way.host, began, now, wish)


def asks_for_less(error: BaseException) -> bool:
    """Whether an error is a host's wish for fewer requests: a 429, a 503, or a Retry-After."""
    if isinstance(error, RateLimited):
        return True
    return isinstance(error, OriginUnavailable) and (
        error.overloaded or error.retry_after is not None
    )
