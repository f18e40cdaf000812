"""One look at an upstream's page: asked at most once at a time, parsed, and put into the store.

What is kept of a page are rows of the store: its head (an Entry whose ``body`` is the version), one row per
rendition of that version, and its listing. All that a new page brings is written in one transaction, so a page
is never half new; a 404 is remembered in memory beside the last good page, never in its place.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import assert_never

from proxy.core import decide, negotiation, simple
from proxy.core.freshness import validators
from proxy.core.messages import Entry, Head, PageTarget, Request, Rules, kept_head
from proxy.core.urls import link_of, page_key, tag_of, without_query
from proxy.entries import dump_entry
from proxy.errors import StoreFailed, UpstreamFailed
from proxy.flights import Flights
from proxy.manifests import Manifest, Manifests, manifest_of
from proxy.renditions import BASE, BASE_UP, all_keys, render
from proxy.room import Row
from proxy.store import Store
from proxy.unpacking import read_body
from proxy.upstream import Upstream

_RENDERING = "1"
"""Part of every version: raised when the same upstream page would be rendered otherwise than before."""
_NEGATIVES = 10_000
INLINE = 64 * 1024
"""Up to so many bytes, parsing and compressing is quicker than a hop to a thread."""


@dataclass(frozen=True, slots=True)
class PageLimits:
    """``page_max`` decoded bytes of a page, ``list_max`` of a project list; ``first_byte`` seconds a client waits
    where nothing is stored, ``waiters`` clients for one page at one time."""

    page_max: int
    list_max: int
    first_byte: float
    waiters: int


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
    manifest: Manifest
    listing: bytes
    base: bytes


class Lookups:
    """Pages of every index as their upstreams have them; ``sites`` gives each index's URL with a final slash."""

    def __init__(
        self,
        sites: Mapping[str, str],
        store: Store,
        upstream: Upstream,
        manifests: Manifests,
        *,
        rules: Rules,
        limits: PageLimits,
        clock: Callable[[], float],
    ) -> None:
        self._sites = sites
        self._store = store
        self._upstream = upstream
        self._manifests = manifests
        self._rules = rules
        self._limits = limits
        self._clock = clock
        self._flights: Flights[Fetched] = Flights(waiters=limits.waiters)
        self._negatives: OrderedDict[str, Entry] = OrderedDict()

    async def close(self) -> None:
        """Cancel the fetches under way."""
        await self._flights.close()

    async def known(self, target: PageTarget) -> Entry | None:
        """The entry that speaks for a page now: a 404 while it is remembered, else the last good page."""
        key = page_key(target.index, target.project)
        negative = self._negatives.get(key)
        if negative is not None:
            if 0 <= self._clock() - negative.head.received_at < self._rules.negative_ttl:
                return negative
            del self._negatives[key]
        return await self.stored_head(key)

    async def stored_head(self, key: str) -> Entry | None:
        """The head of the last good page; None when there is none, or no store to tell."""
        try:
            return await self._store.entry("responses", key)
        except StoreFailed:
            return None

    def fetch(self, target: PageTarget, request: Request, entry: Entry | None) -> tuple[asyncio.Task[Fetched], bool]:
        """The look that is under way for that page, or a new one; and whether it was. Await it shielded."""
        good = entry if entry is not None and entry.head.status == 200 else None
        return self._flights.join(page_key(target.index, target.project), lambda: self._fly(target, request, good))

    async def _fly(self, target: PageTarget, request: Request, entry: Entry | None) -> Fetched:
        # A page without its listing is no use when it only proves unchanged: then it is asked for whole.
        conditional = entry if await self._manifests.of(target.index, target.project) is not None else None
        outcome, received = await self._ask(target, conditional)
        after = decide.after_upstream(request, entry, outcome, self._clock(), self._rules)
        status = outcome.status if isinstance(outcome, Head) else outcome.upstream_status
        match after:
            case decide.Keep(negative=True):
                assert isinstance(outcome, Head)
                return Fetched(after, status, self._remember_missing(target, outcome))
            case decide.Keep() | decide.Relay() if received is not None:
                assert isinstance(outcome, Head)
                kept = await self._take(target, outcome, received, old=entry, keep=isinstance(after, decide.Keep))
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

    async def _ask(self, target: PageTarget, entry: Entry | None) -> tuple[Head | UpstreamFailed, _Received | None]:
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
            document = simple.relocate(page.document, lambda url: f"{BASE_UP}files/{target.index}/{link_of(url)}")
            manifest = manifest_of(page.files)
            listing = simple.dump_listing(manifest.values())
            base = render(document, negotiation.JSON_V1)
            return _Received(version, len(body), without_query(url), manifest, listing, base)

        return work() if len(body) <= INLINE else await asyncio.to_thread(work)

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
        entry = Entry(key, tag, received.url, kept_head(head), received.version, received.size, received.version)
        self._negatives.pop(key, None)
        rows = [self._manifests.put(target.index, target.project, received.manifest, received.listing)]
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


def _ends_itself(body: bytes) -> bool:
    """Whether a page without a length shows its own end: JSON that parses does, HTML must close."""
    tail = body[-64:].rstrip().lower()
    return tail.endswith((b"</html>", b"}"))
