"""What can go wrong, in four words: whose fault, which status, because of what, and when to try again.

Every failure that reaches a client is one of these classes; foreign exceptions stop at the module that
imports the foreign library. ``because`` is constant text of our own: it never repeats what a client or an
upstream sent, so it can be logged and shown.
"""

from __future__ import annotations

from typing import Self


class ProxyError(Exception):
    """Base of all: ``status`` is an HTTP status, ``retry_after`` whole seconds or None.

    ``outcome`` is the word for the log and for Cache-Status: ``missing`` is a 404 the upstream just gave,
    ``negative`` one that is remembered. ``headers`` go out with the answer; ``hint`` is a sentence on what to do about
    it, None where that follows from the status.
    """

    status = 500
    outcome = "error"
    hint: str | None = None

    def __init__(
        self,
        because: str,
        *,
        status: int | None = None,
        retry_after: int | None = None,
        outcome: str | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(because)
        self.headers = headers
        self.because = because
        self.retry_after = retry_after
        if outcome is not None:
            self.outcome = outcome
        if status is not None:
            self.status = status


class Refused(ProxyError):
    """The client's fault: a request we do not serve (4xx)."""

    status = 400
    outcome = "refused"


class UpstreamFailed(ProxyError):
    """The upstream's fault, or nothing is known of it: 502 or 503, never 404 and never 504.

    uv moves to the next index on 404, pip reads 504 and 4xx as "no matching distribution": a failure that
    looked like either would install the wrong thing or nothing.
    ``upstream_status`` is what it answered, None when it did not; ``upstream_seconds`` how long a client waited.
    """

    status = 502
    upstream_seconds = 0.0

    def __init__(
        self,
        because: str,
        *,
        status: int | None = None,
        retry_after: int | None = None,
        upstream_status: int | None = None,
    ) -> None:
        super().__init__(because, status=status, retry_after=retry_after)
        self.upstream_status = upstream_status

    def after(self, upstream_status: int | None) -> Self:
        """The same failure: it came to light after that answer had begun."""
        if self.upstream_status is None:
            self.upstream_status = upstream_status
        return self


    def anew(self) -> UpstreamFailed:
        """The same failure to be remembered, or raised again: without the frames that it went through, and all that
        they held."""
        return UpstreamFailed(
            self.because, status=self.status, retry_after=self.retry_after, upstream_status=self.upstream_status
        )


class MalformedPage(UpstreamFailed):
    """The upstream answered 200 with something that is no Simple API page of that project: a captive portal, a
    mirror in the middle of an update. It may pass, so it is 503."""

    status = 503


class Lacking(UpstreamFailed):
    """A file that the upstream lacks although a page of it lists that."""


class WrongBody(UpstreamFailed):
    """A body whose length or hash is not what its page promised."""


class StoreFailed(ProxyError):
    """Our own disk's fault. It never reaches a client: the proxy streams through without keeping."""


class Forgotten(StoreFailed):
    """Not kept because it was removed after it had been asked for. Nothing is wrong with the disk."""


class OwnedElsewhere(ProxyError):
    """Another process holds the cache directory; ``pid`` is its process id, None when it did not say."""

    def __init__(self, because: str, pid: int | None) -> None:
        super().__init__(because)
        self.pid = pid
