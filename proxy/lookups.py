"""One look at an upstream's page: asked at most once at a time, parsed, and put into the store.

What is kept of a page are rows of the store: its head (an Entry whose ``body`` is the version), one row per
rendition of that version, and its listing. All that a new page brings is written in one transaction, so a page
is never half new; a 404 is remembered in memory beside the last good page, never in its place.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import assert_never

from proxy.breaker import PROBE_EVERY, Silence
from proxy.core import decide, negotiation, simple
from proxy.core.freshness import validators
from proxy.core.messages import Entry, Head, PageTarget, Request, Rules, kept_head
from proxy.core.urls import link_of, page_key, tag_of, without_query
from proxy.entries import dump_entry
from proxy.errors import MalformedPage, StoreFailed, UpstreamFailed
from proxy.flights import Flights
from proxy.manifests import Manifest, Manifests, manifest_of
from proxy.renditions import BASE, BASE_UP, DIGEST, all_keys, render
from proxy.room import Row
from proxy.store import Store
from proxy.unpacking import read_body
from proxy.upstream import Upstream

_RENDERING = "1"
"""Part of every version: raised when the same upstream page would be rendered otherwise than before."""
_REMEMBERED = 10_000
_BEFORE_ASKING_AGAIN = 0.1
INLINE = 64 * 1024
"""Up to so many bytes, parsing and compressing is quicker than a hop to a thread."""


@dataclass(frozen=True, slots=True)
class PageLimits:
    """``page_max`` decoded bytes of a page, ``list_max`` of a project list; ``first_byte`` seconds a client waits
    where nothing is stored, ``waiters`` clients for one page at one time; ``probe_every`` seconds a silent index
    is asked for a page behind the stored one."""

    page_max: int
    list_max: int
    first_byte: float
    waiters: int
    probe_every: float = PROBE_EVERY


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
        self._silence = Silence(limits.probe_every)
        # The looks under way that took longer than ``stale_after``.
        self._overdue: set[str] = set()
        # When a look ended that found only a page which may not replace the stored one, and why not.
        self._useless: OrderedDict[str, tuple[float, UpstreamFailed]] = OrderedDict()

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

    def fetch(
        self, target: PageTarget, request: Request, entry: Entry | None, *, whole: bool = False
    ) -> tuple[asyncio.Task[Fetched], bool]:
        """The look that is under way for that page, or a new one; and whether it was. Await it shielded. One at
        a ``whole`` page asks without a condition, and joins none that may have one."""
        good = entry if entry is not None and entry.head.status == 200 else None
        key = page_key(target.index, target.project) + "|whole" * whole
        return self._flights.join(key, lambda: self._fly(target, request, good, whole))

    async def _fly(self, target: PageTarget, request: Request, entry: Entry | None, whole: bool) -> Fetched:
        # A page without its listing is no use when it only proves unchanged: then it is asked for whole.
        listed = not whole and await self._manifests.of(target.index, target.project) is not None
        outcome, received = await self._answer(target, entry, entry if listed else None)
        after = decide.after_upstream(request, entry, outcome, self._clock(), self._rules)
        status = outcome.status if isinstance(outcome, Head) else outcome.upstream_status
        self._useless.pop(page_key(target.index, target.project), None)
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
                if isinstance(outcome, MalformedPage) or (isinstance(outcome, Head) and status == 200):
                    self._remember_useless(target, after)
                return Fetched(after, status, entry)
            case decide.Fail():
                return Fetched(after, status, None)
            case _:
                assert_never(after)

    def at_once(self, request: Request, target: PageTarget, entry: Entry | None) -> Fetched | None:
        """The stored page, where it is no use to wait for another: the look under way is late, the index has been
        silent lately (then one look at a time goes on behind), or a look a moment ago found no page that may replace
        it. None: look."""
        if entry is None:
            return None
        now = asyncio.get_running_loop().time()
        since, useless = self._useless.get(entry.key, (-math.inf, None))
        late = entry.key in self._overdue
        slow = decide.SLOW if late or self._silence.holds(target.index, now) else None
        outcome = useless if now - since < self._rules.min_reload_interval else slow
        if outcome is None:
            return None
        after = decide.after_upstream(request, entry, outcome, self._clock(), self._rules)
        if not isinstance(after, decide.Fallback):
            return None
        if outcome is decide.SLOW and not late and self._silence.may_probe(target.index, now):
            with suppress(UpstreamFailed):
                self.fetch(target, request, entry)
        return Fetched(after, None, entry)

    def _remember_useless(self, target: PageTarget, after: decide.Fallback) -> None:
        key = page_key(target.index, target.project)
        self._useless[key] = (asyncio.get_running_loop().time(), UpstreamFailed(after.because))
        while len(self._useless) > _REMEMBERED:
            self._useless.popitem(last=False)

    def _is_late(self, target: PageTarget) -> None:
        self._overdue.add(page_key(target.index, target.project))
        self._silence.late(target.index, asyncio.get_running_loop().time())

    async def _answer(
        self, target: PageTarget, entry: Entry | None, conditional: Entry | None
    ) -> tuple[Head | UpstreamFailed, _Received | None]:
        """What the upstream says; a 404 that is hard to believe is asked about once more, past caches."""
        late = asyncio.get_running_loop().call_later(self._rules.stale_after, self._is_late, target)
        try:
            outcome, received = await self._ask(target, conditional)
            if decide.doubtful(entry, outcome, self._clock()):
                await asyncio.sleep(_BEFORE_ASKING_AGAIN)
                outcome, received = await self._ask(target, conditional, past_caches=True)
        finally:
            late.cancel()
            self._overdue.discard(page_key(target.index, target.project))
        if isinstance(outcome, Head | MalformedPage):
            self._silence.answered(target.index)
        return outcome, received

    async def _ask(
        self, target: PageTarget, entry: Entry | None, *, past_caches: bool = False
    ) -> tuple[Head | UpstreamFailed, _Received | None]:
        """The upstream's head, and the page it sent if it is one; a failure to get it is an outcome, no error."""
        url = f"{self._sites[target.index]}{target.project}/"
        headers = {"Accept": negotiation.UPSTREAM_ACCEPT, "Accept-Encoding": "gzip"}
        if entry is not None:
            headers |= validators(entry.head)
        if past_caches:
            headers |= {"Cache-Control": "no-cache"}
        status = None
        try:
            async with self._upstream.open(target.index, url, pool="page", headers=headers) as reply:
                status = reply.head.status
                if reply.head.status != 200:
                    return reply.head, None
                body = await read_body(reply, limit=self._limits.page_max)
                if not reply.framed and not _ends_itself(body):
                    raise UpstreamFailed("the page may have been cut short", status=503, retry_after=2)
            return reply.head, await self._received(target, reply.head, reply.url, body)
        except UpstreamFailed as failure:
            return failure.after(status), None

    async def _received(self, target: PageTarget, head: Head, url: str, body: bytes) -> _Received:
        content_type = head.header("Content-Type") or "text/html"

        def work() -> _Received:
            page = simple.parse(body, content_type, url, target.project)
            document = simple.relocate(page.document, lambda url: f"{BASE_UP}files/{target.index}/{link_of(url)}")
            manifest = manifest_of(page.files)
            listing = simple.dump_listing(manifest.values())
            base = render(document, negotiation.JSON_V1)
            # Not of the body: where links are signed anew for each request, it never comes twice, and every
            # rendition would be made again of what no client can tell from the last one.
            version = hashlib.sha256(f"{_RENDERING}\0".encode() + base[:DIGEST]).hexdigest()
            return _Received(version, len(body), without_query(url), manifest, listing, base)

        return work() if len(body) <= INLINE else await asyncio.to_thread(work)

    def _remember_missing(self, target: PageTarget, head: Head) -> Entry:
        key = page_key(target.index, target.project)
        entry = Entry(key, tag_of(target.index, target.project), "", head, "", 0, "")
        self._negatives[key] = entry
        self._negatives.move_to_end(key)
        while len(self._negatives) > _REMEMBERED:
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
        current = await self.stored_head(entry.key)
        if current is None or current.body == entry.body:
            # Else a newer page came meanwhile, and dropped the renditions that this head speaks for.
            with suppress(StoreFailed):
                await self._store.write([Row(entry.key, dump_entry(entry), entry.tag)])
        return entry


def _ends_itself(body: bytes) -> bool:
    """Whether a page without a length shows its own end: JSON that parses does, HTML must close."""
    tail = body[-64:].rstrip().lower()
    return tail.endswith((b"</html>", b"}"))
