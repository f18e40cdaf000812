"""Index pages: asked of the upstream at most once at a time, kept as one version with its renditions.

What is kept of a page are rows of the store: its head (an Entry whose ``body`` is the version), one row per
rendition of that version, and its listing. All that a new page brings is written in one transaction, so a page is
never half new; a 404 is remembered in memory beside the last good page, never in its place.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import assert_never

from proxy.answer import Answer
from proxy.core import decide, negotiation, simple
from proxy.core.freshness import response_headers, validators
from proxy.core.messages import CacheStatus, Entry, Head, Headers, PageTarget, Request, Rules
from proxy.core.urls import link_of, page_key, tag_of
from proxy.disk import Row
from proxy.entries import dump_entry, load_entry
from proxy.errors import Refused, StoreFailed, UpstreamFailed
from proxy.fills import Flights
from proxy.manifests import Manifest, Manifests
from proxy.renditions import BASE, BASE_UP, View, all_keys, body_of, derive, render
from proxy.store import Store
from proxy.upstream import Upstream, read_body

_RENDERING = "1"
"""Part of every version: raised when the same upstream page would be rendered otherwise than before."""
_NEGATIVES = 10_000
_INLINE = 64 * 1024
"""Up to so many bytes, parsing and compressing is quicker than a hop to a thread."""


@dataclass(frozen=True, slots=True)
class PageLimits:
    """``page_max`` decoded bytes of a page, ``list_max`` of a project list; ``first_byte`` seconds a client waits
    where nothing is stored."""

    page_max: int
    list_max: int
    first_byte: float


@dataclass(frozen=True, slots=True)
class Fetched:
    """What one look at the upstream led to. ``entry`` is the page (or the 404) to show, ``base`` the rendition of
    a page just received; ``status`` is what the upstream answered, None when it did not."""

    after: decide.After
    status: int | None
    entry: Entry | None
    base: bytes | None = None


@dataclass(frozen=True, slots=True)
class _Received:
    version: str
    size: int
    url: str
    files: tuple[simple.Listed, ...]
    base: bytes


class Pages:
    """Pages of every index, each index on its own. ``sites`` gives each index's URL with its final slash."""

    def __init__(
        self,
        sites: Mapping[str, str],
        store: Store,
        upstream: Upstream,
        *,
        rules: Rules,
        limits: PageLimits,
        clock: Callable[[], float],
    ) -> None:
        self._sites = sites
        self._store = store
        self._upstream = upstream
        self._rules = rules
        self._limits = limits
        self._clock = clock
        self._flights: Flights[Fetched] = Flights()
        self._derivations: Flights[bytes | None] = Flights()
        self._negatives: OrderedDict[str, Entry] = OrderedDict()
        self._manifests = Manifests(store)

    async def close(self) -> None:
        """Cancel the fetches under way."""
        await self._flights.close()
        await self._derivations.close()

    # -- a client asks for a page ----------------------------------------------------------------------------

    async def answer(self, request: Request, target: PageTarget) -> Answer:
        """The page in the format the client wants, from the store or the upstream."""
        media_type = negotiation.negotiate(request.headers.get("accept"), request.wanted_format)
        if media_type is None:
            raise Refused("the formats offered are Simple API JSON v1, HTML v1 and text/html", status=406)
        view = View(media_type, target.up, negotiation.accepts_gzip(request.headers.get("accept-encoding")))
        entry = await self._known(target)
        if entry is not None and entry.head.status == 200 and await self._rendition(entry, view) is None:
            entry = None  # its body was evicted: a head without a body is a miss
        before = decide.before_upstream(request, entry, self._clock(), self._rules)
        match before:
            case decide.Serve():
                assert entry is not None
                if before.refresh_behind:
                    self._fetch(target, request, entry)
                status = CacheStatus(
                    "hit" if before.fresh else "stale", before.because, hit=True, ttl=before.ttl
                )
                return await self._show(entry, view, status)
            case decide.Refuse():
                retry_after = 2 if before.status == 503 else None
                raise UpstreamFailed(before.because, status=before.status, retry_after=retry_after)
            case decide.Fetch() | decide.Revalidate() | decide.Pass():
                return await self._forward(request, target, entry, view, before.because)
            case _:
                assert_never(before)

    async def _forward(
        self, request: Request, target: PageTarget, entry: Entry | None, view: View, because: str
    ) -> Answer:
        asked = self._clock()
        flight, joined = self._fetch(target, request, entry)
        try:
            async with asyncio.timeout(self._limits.first_byte if entry is None else self._rules.stale_after):
                fetched = await asyncio.shield(flight)
        except TimeoutError:
            after = decide.after_upstream(request, entry, decide.SLOW, self._clock(), self._rules)
            if not isinstance(after, decide.Fallback) and entry is not None:
                fetched = await self._patiently(flight, asked)
            else:
                fetched = Fetched(after, None, entry)
        forward = "uri-miss" if entry is None else "stale"
        status = CacheStatus(
            "miss", because, forward=forward, forward_status=fetched.status, collapsed=joined
        )
        answer = await self._after(fetched, view, status)
        return replace(answer, upstream_seconds=self._clock() - asked)

    async def _patiently(self, flight: asyncio.Task[Fetched], asked: float) -> Fetched:
        """What is stored may not be served stale: wait as long as if nothing were stored."""
        try:
            async with asyncio.timeout(max(0.0, self._limits.first_byte - (self._clock() - asked))):
                return await asyncio.shield(flight)
        except TimeoutError:
            raise UpstreamFailed("the upstream does not answer", status=503, retry_after=2) from None

    async def _after(self, fetched: Fetched, view: View, status: CacheStatus) -> Answer:
        after, entry = fetched.after, fetched.entry
        match after:
            case decide.Keep():
                outcome = "negative" if after.negative else "miss"
                status = replace(status, outcome=outcome, stored=True)
            case decide.Relay():
                status = replace(status, outcome="relay", because=after.because)
            case decide.Refresh():
                status = replace(status, outcome="revalidated")
            case decide.Fallback():
                status = replace(status, outcome="stale", because=after.because, hit=True)
            case decide.Fail():
                raise UpstreamFailed(after.because, status=after.status, retry_after=after.retry_after)
            case _:
                assert_never(after)
        assert entry is not None
        return await self._show(entry, view, status, fetched.base)

    # -- what is known ---------------------------------------------------------------------------------------

    async def _known(self, target: PageTarget) -> Entry | None:
        """The entry that speaks for a page now: a 404 while it is remembered, else the last good page."""
        key = page_key(target.index, target.project)
        negative = self._negatives.get(key)
        if negative is not None:
            if 0 <= self._clock() - negative.head.received_at < self._rules.negative_ttl:
                return negative
            del self._negatives[key]
        return await self._stored_head(key)

    async def _stored_head(self, key: str) -> Entry | None:
        try:
            row = await self._store.read(key)
            return load_entry(row) if row is not None else None
        except (StoreFailed, ValueError):
            return None

    async def manifest(self, index: str, project: str) -> Manifest | None:
        """What the last page of that project listed, by location; None when no page is known."""
        return await self._manifests.of(index, project)

    async def look(self, index: str, project: str, request: Request) -> Manifest | None:
        """The manifest after at most one collapsed look at the upstream's page, and that only if there was none
        within ``min_reload_interval``; None when there is no such project. Raises UpstreamFailed when the
        upstream gives no page."""
        target = PageTarget(index, project, BASE_UP)
        entry = await self._known(target)
        if entry is not None and (self._rules.offline or self._seen_lately(entry)):
            return await self.manifest(index, project)
        if self._rules.offline:
            raise UpstreamFailed("offline, and nothing is stored", status=503, retry_after=2)
        flight, _ = self._fetch(target, request, entry)
        fetched = await self._patiently(flight, self._clock())
        match fetched.after:
            case decide.Fail() as after:
                raise UpstreamFailed(after.because, status=after.status, retry_after=after.retry_after)
            case decide.Keep(negative=True):
                return None
            case _:
                return await self.manifest(index, project)

    def _seen_lately(self, entry: Entry) -> bool:
        return 0 <= self._clock() - entry.head.received_at < self._rules.min_reload_interval

    # -- one look at the upstream ----------------------------------------------------------------------------

    def _fetch(
        self, target: PageTarget, request: Request, entry: Entry | None
    ) -> tuple[asyncio.Task[Fetched], bool]:
        good = entry if entry is not None and entry.head.status == 200 else None
        return self._flights.join(
            page_key(target.index, target.project), lambda: self._fly(target, request, good)
        )

    async def _fly(self, target: PageTarget, request: Request, entry: Entry | None) -> Fetched:
        outcome, received = await self._ask(target, entry)
        after = decide.after_upstream(request, entry, outcome, self._clock(), self._rules)
        status = outcome.status if isinstance(outcome, Head) else outcome.upstream_status
        match after:
            case decide.Keep(negative=True):
                assert isinstance(outcome, Head)
                return Fetched(after, status, self._remember_missing(target, outcome))
            case decide.Keep() | decide.Relay() if received is not None:
                assert isinstance(outcome, Head)
                kept = await self._take(
                    target, outcome, received, old=entry, keep=isinstance(after, decide.Keep)
                )
                return Fetched(after, status, kept, received.base)
            case decide.Keep() | decide.Relay():
                after = decide.Fail("the upstream answered with something that is no page", 502, None)
                return Fetched(after, status, None)
            case decide.Refresh():
                assert entry is not None
                return Fetched(after, status, await self._refreshed(entry, after.head))
            case decide.Fallback():
                return Fetched(after, status, entry)
            case decide.Fail():
                return Fetched(after, status, None)
            case _:
                assert_never(after)

    async def _ask(
        self, target: PageTarget, entry: Entry | None
    ) -> tuple[Head | UpstreamFailed, _Received | None]:
        """The upstream's head, and the page it sent if it is one; a failure to get it is an outcome, no error."""
        url = f"{self._sites[target.index]}{target.project}/"
        headers = {"Accept": negotiation.UPSTREAM_ACCEPT, "Accept-Encoding": "gzip"}
        if entry is not None:
            headers |= validators(entry.head)
        try:
            async with self._upstream.open(target.index, url, pool="page", headers=headers) as reply:
                if reply.head.status != 200:
                    return reply.head, None
                body = await read_body(reply, limit=self._limits.page_max)
                if not reply.framed and not _ends_itself(body):
                    return UpstreamFailed("the page may have been cut short", status=503, retry_after=2), None
            return reply.head, await self._received(target, reply.head, reply.url, body)
        except UpstreamFailed as failure:
            return failure, None

    async def _received(self, target: PageTarget, head: Head, url: str, body: bytes) -> _Received:
        content_type = head.header("Content-Type") or "text/html"

        def work() -> _Received:
            version = hashlib.sha256(f"{_RENDERING}\0{url}\0{content_type}\0".encode() + body).hexdigest()
            page = simple.parse(body, content_type, url, target.project)
            document = {
                **page.document,
                "files": [file for file in page.document["files"] if _has_place(file["url"])],
            }
            document = simple.relocate(document, lambda url: f"{BASE_UP}files/{target.index}/{link_of(url)}")
            files = tuple(listed for listed in page.files if _has_place(listed.url))
            return _Received(version, len(body), url, files, render(document, negotiation.JSON_V1))

        return work() if len(body) <= _INLINE else await asyncio.to_thread(work)

    def _remember_missing(self, target: PageTarget, head: Head) -> Entry:
        key = page_key(target.index, target.project)
        entry = Entry(key, tag_of(target.index, target.project), "", head, "", 0, "")
        self._negatives[key] = entry
        self._negatives.move_to_end(key)
        while len(self._negatives) > _NEGATIVES:
            self._negatives.popitem(last=False)
        return entry

    async def _take(
        self, target: PageTarget, head: Head, received: _Received, *, old: Entry | None, keep: bool
    ) -> Entry:
        """Put a new page (its listing at least) into the store; a store that fails costs only the keeping."""
        key, tag = page_key(target.index, target.project), tag_of(target.index, target.project)
        entry = Entry(key, tag, received.url, head, received.version, received.size, received.version)
        self._negatives.pop(key, None)
        rows = [self._manifests.put(target.index, target.project, received.files)]
        drop: list[str] = []
        if keep:
            rows += [Row(BASE.key(entry), received.base, tag), Row(key, dump_entry(entry), tag)]
            drop = all_keys(old) if old is not None and old.body != entry.body else []
        with suppress(StoreFailed):
            await self._store.write(rows, drop=drop)
        return entry

    async def _refreshed(self, entry: Entry, head: Head) -> Entry:
        entry = replace(entry, head=head)
        self._negatives.pop(entry.key, None)
        with suppress(StoreFailed):
            await self._store.write([Row(entry.key, dump_entry(entry), entry.tag)])
        return entry

    # -- the page as bytes -----------------------------------------------------------------------------------

    async def _show(self, entry: Entry, view: View, status: CacheStatus, base: bytes | None = None) -> Answer:
        if entry.head.status != 200:
            raise Refused("the index has no such project", status=404, outcome="negative")
        rendition = await self._rendition(entry, view, base)
        if rendition is None:
            raise UpstreamFailed("the page was evicted a moment ago; ask again", status=503, retry_after=1)
        headers: Headers = (
            ("Content-Type", view.content_type()),
            ("ETag", view.etag(rendition)),
            ("Vary", "Accept, Accept-Encoding"),
            *response_headers(entry.head, self._clock(), self._rules),
        )
        if view.gzipped:
            headers += (("Content-Encoding", "gzip"),)
        serial = entry.head.header("X-PyPI-Last-Serial")
        if serial is not None:
            headers += (("X-PyPI-Last-Serial", serial),)
        small = view.gzipped or len(rendition) <= _INLINE
        body = body_of(rendition, view) if small else await asyncio.to_thread(body_of, rendition, view)
        return Answer(200, headers, body, status, stop=len(body))

    async def _rendition(self, entry: Entry, view: View, base: bytes | None = None) -> bytes | None:
        key = view.key(entry)
        if base is not None and key == BASE.key(entry):
            return base
        try:
            stored = await self._store.read(key)
        except StoreFailed:
            stored = None
        if stored is not None:
            return stored
        flight, _ = self._derivations.join(key, lambda: self._derive(entry, view, base))
        return await asyncio.shield(flight)

    async def _derive(self, entry: Entry, view: View, base: bytes | None) -> bytes | None:
        """Make a rendition from the base, and keep it as long as its version is the one that is kept."""
        try:
            base = base if base is not None else await self._store.read(BASE.key(entry))
            if base is None or view.key(entry) == BASE.key(entry):
                return base
            made = (
                derive(base, view)
                if len(base) <= _INLINE // 4
                else await asyncio.to_thread(derive, base, view)
            )
        except (StoreFailed, ValueError, OSError, EOFError):
            return None
        current = await self._stored_head(entry.key)
        if current is not None and current.body == entry.body:
            with suppress(StoreFailed):
                await self._store.write([Row(view.key(entry), made, entry.tag)])
        return made


def _has_place(url: str) -> bool:
    """Whether a listed URL can be served below a path of ours; one with userinfo, say, is left out."""
    try:
        link_of(url)
    except ValueError:
        return False
    return True


def _ends_itself(body: bytes) -> bool:
    """Whether a page without a length shows its own end: JSON that parses does, HTML must close."""
    tail = body[-64:].rstrip().lower()
    return tail.endswith((b"</html>", b"}"))
