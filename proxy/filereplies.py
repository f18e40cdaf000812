"""What a reply to a request for a file means: a body to take, a part of one, or a failure. And which files an
upstream was found to lack a moment ago."""

from __future__ import annotations

import time
from collections.abc import Callable

from proxy.core import decide
from proxy.core.conditions import Prefix, Span, Suffix
from proxy.core.messages import NotHere, Request, Rules
from proxy.core.ranges import received_range, within
from proxy.errors import Lacking, UpstreamFailed
from proxy.replies import RETRY_AFTER, Reply

LACKING_FOR = 2.0
"""Seconds for which an upstream is not asked again for a file that it lacks: as long as clients are told to wait."""
_REMEMBERED = 4096
_LACKS = "the upstream lacks a file that its page lists"
_PAGES = ("text/html", "application/xhtml+xml")


class FileReplies:
    """Judges replies by the table that judges those for pages."""

    def __init__(self, *, rules: Rules, clock: Callable[[], float]) -> None:
        self._rules = rules
        self._clock = clock
        self._lacking: dict[str, float] = {}

    def whole(self, reply: Reply, *, pinned: bool) -> tuple[int, int | None]:
        """The offset of its first byte (0) and its size, if it says so. Raises UpstreamFailed for all but a file;
        ``pinned`` when a hash will prove what no head can."""
        request = Request("GET", NotHere(""), {})
        match decide.after_upstream(request, None, reply.head, self._clock(), self._rules):
            case decide.Fail() as fail:
                raise decide.failure(fail, reply.head.status)
            case decide.Keep(negative=True):
                status = reply.head.status
                raise Lacking(_LACKS, status=503, retry_after=RETRY_AFTER, upstream_status=status)
            case _:
                if reply.head.status != 200:
                    because = "the upstream answered with something that is no file"
                    raise UpstreamFailed(because, upstream_status=reply.head.status)
        if not pinned:
            _refuse_pages(reply)
        return 0, reply.length

    def part(self, reply: Reply, asked: Span | Prefix | Suffix) -> tuple[int, int | None]:
        """The same for a request for a range, of which nothing ever proves what came: the offset of the first byte
        and the size of the whole."""
        if reply.head.status != 206:
            return self.whole(reply, pinned=False)
        _refuse_pages(reply)
        received = received_range(reply.head.header("Content-Range"))
        if received is None or within(asked, received[1]) != received[0]:
            raise UpstreamFailed("the upstream sent another range than was asked for", upstream_status=206)
        return received[0].start, received[1]

    # A file that is listed and missing is on its way to this mirror, and a crowd is waiting for it.

    def lacks(self, key: str) -> None:
        """Remember that the upstream has no such file now."""
        self._lacking.pop(key, None)
        self._lacking[key] = time.monotonic()
        while len(self._lacking) > _REMEMBERED:
            self._lacking.pop(next(iter(self._lacking)))

    def expect(self, key: str) -> None:
        """Raise Lacking when the upstream lacked that file a moment ago."""
        since = self._lacking.get(key)
        if since is None:
            return
        if time.monotonic() - since < LACKING_FOR:
            raise Lacking(_LACKS, status=503, retry_after=RETRY_AFTER)
        del self._lacking[key]


def _refuse_pages(reply: Reply) -> None:
    """A login page, a notice, a captive portal: no file of an index is HTML."""
    kind = (reply.head.header("Content-Type") or "").partition(";")[0].strip().lower()
    if kind in _PAGES:
        because, status = "the upstream sent a page in place of a file", reply.head.status
        raise UpstreamFailed(because, status=503, retry_after=RETRY_AFTER, upstream_status=status)
