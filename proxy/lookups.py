"""One look at an upstream's page: asked at most once at a time, parsed, and put into the store.

What is kept of a page are rows of the store: its head (an Entry whose ``body`` is the version), one row per
rendition of that version, and its listing. All that a new page brings is written in one transaction, so a page
is never half new; a 404 is remembered in memory beside the last good page, never in its place.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import assert_never

from proxy.asking import INLINE, Asking, Received
from proxy.breaker import PROBE_EVERY
from proxy.core import decide
from proxy.core.messages import Entry, Head, PageTarget, Request, Rules, kept_head
from proxy.core.patterns import Selection
from proxy.core.urls import page_key, tag_of
from proxy.entries import dump_entry
from proxy.errors import MalformedPage, StoreFailed, UpstreamFailed
from proxy.fence import page_named
from proxy.flights import Flights, Waiting
from proxy.futile import Futile
from proxy.manifests import Coming, Manifest, Manifests
from proxy.renditions import BASE, all_keys
from proxy.room import Row
from proxy.store import Store
from proxy.turns import Turns
from proxy.upstream import Upstream

_REMEMBERED = 10_000
_BEFORE_ASKING_AGAIN = 0.1


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
    """What one look at the upstream led to. ``entry`` is the page (or the 404) to show; ``base`` and ``manifest`` are
    its rendition and its listing, ready or being made, if it was received or found unchanged: what is stored of it may
    be removed at any time. ``status`` is what the upstream answered, None when it did not."""

    after: decide.After
    status: int | None
    entry: Entry | None
    base: bytes | None = None
    manifest: Manifest | Coming | None = None


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
        self._asking = Asking(sites, upstream, page_max=limits.page_max)
        self._store = store
        self._manifests = manifests
        self._rules = rules
        self._limits = limits
        self._clock = clock
        self._flights: Flights[Fetched] = Flights(waiters=limits.waiters)
        self._turns = Turns()
        self._negatives: OrderedDict[str, Entry] = OrderedDict()
        self._futile = Futile(rules=rules, probe_every=limits.probe_every, clock=clock)

    async def close(self) -> None:
        """Cancel the fetches under way."""
        await self._flights.close()

    @property
    def waiting(self) -> Waiting:
        """Who waits for a page."""
        return self._flights.waiting

    async def known(self, target: PageTarget) -> Entry | None:
        """The entry that speaks for a page now: a 404 while it is remembered, else the last good page."""
        key = page_key(target.index, target.project)
        negative = self._negatives.get(key)
        if negative is not None and 0 <= self._clock() - negative.head.received_at < self._rules.negative_ttl:
            return negative
        return await self.stored_head(key)

    def at_hand(self, target: PageTarget) -> Entry | None:
        """The last good page's entry if it is in memory and speaks for the page."""
        key = page_key(target.index, target.project)
        negative = self._negatives.get(key)
        if negative is not None and 0 <= self._clock() - negative.head.received_at < self._rules.negative_ttl:
            return None
        return self._store.at_hand.entry("responses", key)

    async def stored_head(self, key: str) -> Entry | None:
        """The head of the last good page; None when there is none, or no store to tell."""
        try:
            return await self._store.entry("responses", key)
        except StoreFailed:
            self._turns.touched(key)
            return None

    def fetch(
        self, target: PageTarget, request: Request, entry: Entry | None, *, whole: bool = False, anew: bool = False
    ) -> tuple[asyncio.Task[Fetched], bool]:
        """The look that is under way for that page, or a new one; and whether it was. Await it shielded. One at
        a ``whole`` page asks without a condition, and joins none that may have one; one ``anew`` asks past the caches
        between us and the index."""
        key = page_key(target.index, target.project) + "|whole" * whole
        return self._flights.join(key, lambda: self._fly(target, request, entry, whole, anew))

    async def _fly(self, target: PageTarget, request: Request, entry: Entry | None, whole: bool, anew: bool) -> Fetched:
        key = page_key(target.index, target.project)
        timer = self._futile.begun(key, target.index)
        try:
            await self._turns.written(key)
            since, mark = self._store.mark(), self._turns.mark()
            if entry is not None and entry.head.status != 200:
                # A 404 that is remembered speaks for the page, but stands beside the last good one.
                entry = await self._whole(target)
            # A page without its listing or base is no use when it only proves unchanged: then it is asked for whole.
            known = entry is not None and not whole
            manifest = await self._manifests.of(target.index, target.project) if known else None
            base = None if manifest is None or entry is None else await self._base(entry)
            answer = await self._answer(target, entry, None if base is None else entry, anew)
        finally:
            self._futile.ended(key, timer)
        async with self._turns.taken(key):
            if answer[1] is not None and not (entry is None and self._turns.untouched(key, mark)):
                # A look beside this one may have brought a newer page meanwhile, or the first one.
                entry = await self._whole(target) or entry
            return await self._concluded(target, request, entry, answer, base, manifest, since)

    async def _concluded(
        self,
        target: PageTarget,
        request: Request,
        entry: Entry | None,
        answer: tuple[Head | UpstreamFailed, Received | None],
        base: bytes | None,
        manifest: Manifest | None,
        since: int,
    ) -> Fetched:
        outcome, received = answer
        after = decide.after_upstream(request, entry, outcome, self._clock(), self._rules)
        status = outcome.status if isinstance(outcome, Head) else outcome.upstream_status
        self._futile.forget(page_key(target.index, target.project))
        match after:
            case decide.Keep(negative=True):
                assert isinstance(outcome, Head)
                return Fetched(after, status, self._remember_missing(target, outcome, since))
            case decide.Keep() | decide.Relay() if received is not None:
                assert isinstance(outcome, Head)
                keep = isinstance(after, decide.Keep)
                kept, listing = await self._take(target, outcome, received, old=entry, keep=keep, since=since)
                return Fetched(after, status, kept, received.base, listing)
            case decide.Keep() | decide.Relay():
                after = decide.Fail("the upstream answered with something that is no page", 502, None)
                return Fetched(after, status, None)
            case decide.Refresh():
                assert entry is not None
                current = await self._refreshed(entry, after.head, since)
                if current.body != entry.body:
                    return Fetched(after, status, current)
                return Fetched(after, status, current, base, manifest)
            case decide.Fallback():
                if isinstance(outcome, MalformedPage) or (isinstance(outcome, Head) and status == 200):
                    self._futile.useless(page_key(target.index, target.project), after.because)
                # Whoever began this look may have known of an older page than there is by now.
                return Fetched(after, status, await self._whole(target) or entry)
            case decide.Fail():
                return Fetched(after, status, None)
            case _:
                assert_never(after)

    def url_of(self, target: PageTarget) -> str:
        """Where its index has the page."""
        return self._asking.url_of(target)

    def under_way(self, target: PageTarget) -> Sequence[asyncio.Task[Fetched]]:
        """The looks at that page that are on their way now, two at the most."""
        key = page_key(target.index, target.project)
        return [task for task in (self._flights.under_way(key), self._flights.under_way(f"{key}|whole")) if task]

    def unlearn(self, target: PageTarget) -> None:
        """Drop what is remembered against a page: that it is missing, that a look found nothing of use."""
        key = page_key(target.index, target.project)
        self._negatives.pop(key, None)
        self._futile.forget(key)

    def forget(self, selection: Selection) -> None:
        """Drop what is remembered of the pages that were removed. Who asks for one from here on shares no look that
        began before."""
        for key in [key for key in self._negatives if selection.covers(*page_named(key))]:
            del self._negatives[key]
        self._flights.part_with(lambda key: selection.covers(*page_named(key)))
        self._manifests.forget(selection)

    def at_once(self, request: Request, target: PageTarget, entry: Entry | None) -> Fetched | None:
        """The stored page, where it is no use to wait for another (at a silent index, one look at a time goes on
        behind). None: look."""
        instead = self.foreseen(request, target, entry)
        if instead is not None and entry is not None and self._futile.may_probe(entry.key, target.index):
            with suppress(UpstreamFailed):
                self.fetch(target, request, entry)
        return instead

    def foreseen(self, request: Request, target: PageTarget, entry: Entry | None) -> Fetched | None:
        """The same, and nothing goes on behind."""
        after = None if entry is None else self._futile.instead(request, target.index, entry)
        return None if after is None else Fetched(after, None, entry)

    async def _answer(
        self, target: PageTarget, entry: Entry | None, conditional: Entry | None, anew: bool
    ) -> tuple[Head | UpstreamFailed, Received | None]:
        """What the upstream says; what is hard to believe is asked about once more, past caches."""
        outcome, received = await self._asking.ask(target, conditional, past_caches=anew)
        if decide.doubtful(entry, outcome, self._clock()):
            await asyncio.sleep(_BEFORE_ASKING_AGAIN)
            outcome, received = await self._asking.ask(target, None, past_caches=True)
        if isinstance(outcome, Head | MalformedPage):
            self._futile.answered(target.index)
        return outcome, received

    async def _whole(self, target: PageTarget) -> Entry | None:
        """The last good page, None where a part of what is stored of it is gone."""
        entry = await self.stored_head(page_key(target.index, target.project))
        return entry if entry is not None and await self._base(entry) is not None else None

    async def _base(self, entry: Entry) -> bytes | None:
        try:
            return await self._store.read(BASE.key(entry))
        except StoreFailed:
            return None

    def _remember_missing(self, target: PageTarget, head: Head, since: int) -> Entry:
        key = page_key(target.index, target.project)
        entry = Entry(key, tag_of(target.index, target.project), "", head, "", 0, "")
        if self._store.fence.hides(since, *page_named(key)):
            return entry
        self._negatives[key] = entry
        self._store.at_hand.changed("responses", key)
        self._negatives.move_to_end(key)
        while len(self._negatives) > _REMEMBERED:
            self._negatives.popitem(last=False)
        return entry

    async def _take(
        self, target: PageTarget, head: Head, received: Received, *, old: Entry | None, keep: bool, since: int
    ) -> tuple[Entry, Coming]:
        """Put a new page (its listing at least) into the store, behind; one that fails costs only the keeping."""
        key, tag = page_key(target.index, target.project), tag_of(target.index, target.project)
        entry = Entry(key, tag, received.url, kept_head(head), received.version, received.size, received.version)
        self._negatives.pop(key, None)
        self._store.at_hand.changed("responses", key)
        quick, rows, drop = received.size <= INLINE, list[Row](), list[str]()
        listing = self._manifests.take(target.index, target.project, received.listing, since, quick=quick)
        if keep:
            rows = [Row(BASE.key(entry), received.base, tag), Row(key, dump_entry(entry), tag, entry)]
            drop = all_keys(old) if old is not None and old.body != entry.body else []
        self._turns.writing(key, await self._store.behind.write(rows, drop, since, _row_of(listing)))
        return entry, listing

    async def _refreshed(self, entry: Entry, head: Head, since: int) -> Entry:
        entry = replace(entry, head=head)
        self._negatives.pop(entry.key, None)
        self._store.at_hand.changed("responses", entry.key)
        current = await self.stored_head(entry.key)
        if current is not None and current.body != entry.body:
            # A newer page came meanwhile, and dropped the renditions that this head speaks for.
            return current
        row = Row(entry.key, dump_entry(entry), entry.tag, entry)
        self._turns.writing(entry.key, await self._store.behind.write([row], (), since))
        return entry


async def _row_of(listing: Coming) -> Row:
    return (await listing)[1]
