"""The errors of the domain, and the closed set of reasons that users meet.

Every failure that reaches a status, a metric, an exit code or a log line is a `ModelCacheError`.
Each carries a `Reason` (a closed set, so that it can be a metric label and a condition reason) and
`retryable`: whether trying again without anybody's help can succeed. A library's own exception is
chained as the cause.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a model is not there. Closed: dashboards, alerts and conditions rely on it."""

    AUTH_FAILED = "AuthFailed"
    NOT_FOUND = "NotFound"
    RATE_LIMITED = "RateLimited"
    ORIGIN_UNAVAILABLE = "OriginUnavailable"
    CHECKSUM_MISMATCH = "ChecksumMismatch"
    INSUFFICIENT_DISK = "InsufficientDisk"
    DISK_FAILED = "DiskFailed"
    UNSAFE_PATH = "UnsafePath"
    UNSAFE_FORMAT = "UnsafeFormat"
    CANCELLED = "Cancelled"
    INTERNAL = "Internal"


class ModelCacheError(Exception):
    """Base of all errors of this package.

    The message is one sentence for a person: what is wrong and, where it is known, what to do.
    """

    reason: Reason = Reason.INTERNAL
    retryable: bool = False
    exit_code: int = 1


class UsageError(ModelCacheError):
    """A command line, a setting or a catalog that can't be right."""

    exit_code = 2


class AuthFailed(ModelCacheError):
    """The origin refuses the credentials, or there are none and it wants some.

    Retried by the agent (a token may be granted, a licence accepted), but slowly.
    """

    reason = Reason.AUTH_FAILED
    exit_code = 3


class NotFound(ModelCacheError):
    """The origin has no such repository, revision, bucket, key or path."""

    reason = Reason.NOT_FOUND
    exit_code = 4


class ChecksumMismatch(ModelCacheError):
    """The bytes that came are not the bytes that the origin promised.

    Retryable: the partial file is thrown away and fetched again.
    """

    reason = Reason.CHECKSUM_MISMATCH
    retryable = True
    exit_code = 5


class DiskFailed(ModelCacheError):
    """The cache's own disk can't be read or written. Tried again, as all is, but not soon."""

    reason = Reason.DISK_FAILED


class InsufficientDisk(ModelCacheError):
    """What is to be stored does not fit. Trying again at once won't help; the agent tries later.

    `needed` and `available` are bytes.
    """

    reason = Reason.INSUFFICIENT_DISK
    exit_code = 6

    def __init__(self, message: str, *, needed: int = 0, available: int = 0) -> None:
        super().__init__(message)
        self.needed = needed
        self.available = available


class OriginUnavailable(ModelCacheError):
    """No answer, a broken answer, or a server error from the origin.

    `retry_after` is the origin's own wish in seconds, where it gave one (RFC 9110, 10.2.3);
    `overloaded` whether it says that it has too much to do (HTTP 503); `status` HTTP's, where it is
    known.
    """

    reason = Reason.ORIGIN_UNAVAILABLE
    retryable = True
    exit_code = 7

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        overloaded: bool = False,
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.status = status
        self.overloaded = overloaded


class RateLimited(OriginUnavailable):
    """The origin asks for fewer requests (HTTP 429, or S3's 503 SlowDown)."""

    reason = Reason.RATE_LIMITED


class OriginChanged(OriginUnavailable):
    """The object was replaced after it had been resolved: resolve again, then fetch."""


class BrokenContent(OriginUnavailable):
    """A list, manifest or archive that came whole and can't be used: it has to be made anew.

    Asking for it again at once is no use.
    """

    retryable = False


class BrokenArchive(BrokenContent):
    """An archive that can't be unpacked."""


class UnsafePath(ModelCacheError):
    """A name or a place that could lead outside of where it belongs."""

    reason = Reason.UNSAFE_PATH
    exit_code = 2


class UnsafeFormat(ModelCacheError):
    """Only files that can run code when loaded, and the object does not allow them."""

    reason = Reason.UNSAFE_FORMAT
    exit_code = 2


class Untrusted(ModelCacheError):
    """A compile cache that nobody vouches for whom this machine trusts. It is code: not taken."""

    reason = Reason.UNSAFE_FORMAT
    exit_code = 5


class BrokenBundle(ModelCacheError):
    """A bundle of a compile cache that is not what it says it is, or what none may be."""

    reason = Reason.CHECKSUM_MISMATCH
    exit_code = 5


class Cancelled(ModelCacheError):
    """Stopped on request. What was fetched so far is kept and resumed."""

    reason = Reason.CANCELLED


class StoreDamaged(ModelCacheError):
    """The root is not a cache of ours, or was written by a newer version."""


class InUse(ModelCacheError):
    """What is to be removed is in use, or it can't be told that it isn't."""

    exit_code = 8


class TreeChanged(ModelCacheError):
    """A file of a tree changed, or went, while it was read: somebody still writes."""

    retryable = True


class TreeTooLarge(ModelCacheError):
    """A directory tree has more files or bytes than is allowed, or looking at it takes too long."""


class NotQuiet(TreeChanged):
    """A compile cache is not complete yet, or changed while it was captured."""


class NotCaptured(ModelCacheError):
    """What a start left in its compile cache is not to be captured, now or later."""


class AcceleratorUnknown(ModelCacheError):
    """Which accelerator the machine computes on can't be told, or there are several kinds of them:
    a compile cache for one is none for the other."""


class ClusterError(ModelCacheError):
    """The API server refused a request, or gave no answer that can be used.

    Attributes:
        status: the HTTP status; 0 where no answer came.
        code: the `reason` of the Status object, such as `Conflict` or `Expired`; empty where the
            answer had none, as a proxy's.
        retry_after: the server's own wish in seconds, where it gave one.
    """

    def __init__(
        self, message: str, *, status: int = 0, code: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after = retry_after

    @property
    def retryable(self) -> bool:  # type: ignore[override]
        """Whether the same request may succeed later, without anybody's help."""
        return self.status in (0, 408, 410, 429) or self.status >= 500


EXIT_CODES = {
    Reason.AUTH_FAILED: AuthFailed.exit_code,
    Reason.NOT_FOUND: NotFound.exit_code,
    Reason.RATE_LIMITED: RateLimited.exit_code,
    Reason.ORIGIN_UNAVAILABLE: OriginUnavailable.exit_code,
    Reason.CHECKSUM_MISMATCH: ChecksumMismatch.exit_code,
    Reason.INSUFFICIENT_DISK: InsufficientDisk.exit_code,
    Reason.DISK_FAILED: DiskFailed.exit_code,
    Reason.UNSAFE_PATH: UnsafePath.exit_code,
    Reason.UNSAFE_FORMAT: UnsafeFormat.exit_code,
    Reason.CANCELLED: Cancelled.exit_code,
    Reason.INTERNAL: ModelCacheError.exit_code,
}
"""The command's exit code for each reason."""
