"""Index pages as clients see them: in the format they want, fresh, stale or on their way."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from copy import copy
from dataclasses import replace
from typing import assert_never

from proxy.again import until
from proxy.answer import Answer, Lasting
from proxy.asking import INLINE
from proxy.core import decide, negotiation
from proxy.core.conditions import not_modified
from proxy.core.lifetime import response_headers
from proxy.core.messages import CacheStatus, Entry, Headers, PageTarget, Request, Rules
from proxy.core.patterns import Selection
from proxy.core.urls import page_key
from proxy.derivations import Derivations
from proxy.errors import Refused, UpstreamFailed
from proxy.fence import page_named
from proxy.lookups import Fetched, Lookups, PageLimits
from proxy.manifests import Manifest, Manifests
from proxy.outcomes import concluded, served
from proxy.renditions import BASE, BASE_UP, View, body_of
from proxy.store import Store

# The entry that speaks for a page, and its rendition when that is a page and not a 404.
Held = tuple[Entry | None, bytes | None]

_LOOKS = 10_000
_MISSING = "the index has no such project"
_READS = 3
"""Times a page that is replaced while it is read is read again."""


class Pages:
    """Pages of every index, each index on its own."""

    def __init__(
        self,
        lookups: Lookups,
        manifests: Manifests,
        store: Store,
        *,
        rules: Rules,
        limits: PageLimits,
        clock: Callable[[], float],
    ) -> None:
        self._lookups = lookups
        self._manifests = manifests
        self._store = store
        self._rules = rules
        self._limits = limits
        self._clock = clock
        self._derivations = Derivations(lookups, store, waiters=limits.waiters)
        # When a look at a page ended that was made for the sake of a file, and what it failed of, if it did.
        self._looked: OrderedDict[str, tuple[float, UpstreamFailed | None]] = OrderedDict()

    def aside(self, lookups: Lookups, manifests: Manifests, store: Store) -> Pages:
        """The same pages, with the same memory, over other rooms."""
        twin = copy(self)
        twin._lookups, twin._manifests, twin._store = lookups, manifests, store
        twin._derivations = Derivations(lookups, store, waiters=self._limits.waiters)
        return twin

    async def close(self) -> None:
        """Cancel the renderings under way."""
        await self._derivations.close()

    # -- a client asks for a page ----------------------------------------------------------------------------

    async def answer(self, request: Request, target: PageTarget) -> Answer:
        """The page in the format the client wants, from the store or the upstream."""
        view, (entry, shown), before = await self.before(request, target)
        match before:
            case decide.Serve():
                assert entry is not None
                if before.refresh_behind and self._lookups.at_once(request, target, entry) is None:
                    # Too many may have joined that flight; nobody waits for it here.
                    with suppress(UpstreamFailed):
                        self._lookups.fetch(target, request, entry)
                answer = await self._show(request, entry, view, served(before), shown)
                return answer if before.refresh_behind else self._lasting(request, target, entry, view, answer)
            case decide.Refuse():
                raise decide.refusal(before)
            case decide.Fetch() | decide.Revalidate() | decide.Pass():
                return await self._forward(request, target, (entry, shown), view, before.because)
            case _:
                assert_never(before)

    async def before(self, request: Request, target: PageTarget) -> tuple[View, Held, decide.Before]:
        """What the client wants to see, what is here of it, and what to do with that. Raises Refused (406)."""
        media_type = negotiation.negotiate(request.headers.get("accept"), request.wanted_format)
        if media_type is None:
            raise Refused("the formats offered are Simple API JSON v1, HTML v1 and text/html", status=406)
        view = View(media_type, target.up, negotiation.coding_of(request.headers.get("accept-encoding")))
        held = await self._known(target, view)
        return view, held, decide.before_upstream(request, held[0], self._clock(), self._rules)

    async def _known(self, target: PageTarget, view: View) -> Held:
        """The entry that speaks for a page, and its rendition. A head whose body was evicted is no entry; one
        whose version was replaced between the two reads is read again."""
        entry = await self._lookups.known(target)
        for _ in range(_READS):
            if entry is None or entry.head.status != 200:
                return entry, None
            shown = await self._derivations.rendition(entry, view)
            if shown is not None:
                return entry, shown
            before, entry = entry, await self._lookups.known(target)
            if entry is not None and entry.body == before.body:
                break
        return None, None

    async def _forward(self, request: Request, target: PageTarget, held: Held, view: View, because: str) -> Answer:
        entry = held[0]
        asked = self._clock()
        at_once = self._lookups.at_once(request, target, entry)
        if at_once is not None:
            return await self._after(request, at_once, held, view, CacheStatus("miss", because))
        try:
            flight, joined = self._lookups.fetch(target, request, entry)
        except UpstreamFailed as crowd:
            after = decide.after_upstream(request, entry, crowd, asked, self._rules)
            return await self._after(request, Fetched(after, None, entry), held, view, CacheStatus("miss", because))
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
        status = CacheStatus("miss", because, forward=forward, forward_status=fetched.status, collapsed=joined)
        answer = await self._after(request, fetched, held, view, status)
        answer = replace(answer, upstream_seconds=self._clock() - asked)
        if isinstance(fetched.after, decide.Keep | decide.Refresh) and fetched.entry is not None:
            return self._lasting(request, target, fetched.entry, view, answer)
        return answer

    async def _patiently(self, flight: asyncio.Task[Fetched], asked: float) -> Fetched:
        """What is stored may not be served stale: wait as long as if nothing were stored."""
        try:
            async with asyncio.timeout(max(0.0, self._limits.first_byte - (self._clock() - asked))):
                return await asyncio.shield(flight)
        except TimeoutError:
            raise UpstreamFailed("the upstream does not answer", status=503, retry_after=2) from None

    async def _after(
        self,
        request: Request,
        fetched: Fetched,
        held: Held,
        view: View,
        status: CacheStatus,
    ) -> Answer:
        entry, status = concluded(fetched, status, missing=_MISSING, now=self._clock(), rules=self._rules)
        known, shown = held
        if known is None or known.body != entry.body or shown is None:
            # Another version than the one held before the flight. Its base came with it, or is in the store.
            shown = await self._derivations.rendition(entry, view, fetched.base) if entry.head.status == 200 else None
        return await self._show(request, entry, view, status, shown)

    # -- what is known ---------------------------------------------------------------------------------------

    async def manifest(self, index: str, project: str) -> Manifest | None:
        """What the last page of that project listed, by location; None when no page is known."""
        return await self._manifests.of(index, project)

    def manifest_at_hand(self, index: str, project: str) -> Manifest | None:
        """The same if it can be told at once."""
        return self._manifests.at_hand(index, project)

    async def look(self, index: str, project: str, request: Request, *, whole: bool = False) -> Manifest | None:
        """What the project's page lists now, after at most one collapsed look at the upstream, and none within
        ``min_reload_interval`` of the last; None when there is no such project. A ``whole`` page is asked for where
        "not modified" would not tell, nor has told a moment ago: a server may sign its links anew under one and the
        same validator.

        Raises UpstreamFailed when the upstream does not tell: what is stored then proves nothing about a file
        that it does not list, and failure is never 404.
        """
        target, mark = PageTarget(index, project, BASE_UP), self._store.mark()
        entry = await self._lookups.known(target)
        manifest = await self.manifest(index, project)
        if not whole and entry is not None and self._within(entry.head.received_at):
            if entry.head.status != 200:
                return None
            if manifest is not None:
                return manifest
        key = page_key(index, project) + "|whole" * whole
        since, failure = self._looked.get(key, (-math.inf, None))
        if self._within(since):
            if failure is not None:
                raise failure.anew()
            return manifest
        flight, _ = self._lookups.fetch(target, request, entry, whole=whole)
        try:
            found = await self._seen(await self._patiently(flight, self._clock()), index, project)
        except UpstreamFailed as failed:
            self._remember_look(key, failed, mark)
            raise
        self._remember_look(key, None, mark)
        return found

    def forget(self, selection: Selection) -> None:
        """Drop what looks at the pages came to that were removed."""
        for key in [key for key in self._looked if selection.covers(*page_named(key))]:
            del self._looked[key]

    def unlearn(self, target: PageTarget) -> None:
        """Drop what looks at that page came to."""
        key = page_key(target.index, target.project)
        for each in (key, f"{key}|whole"):
            self._looked.pop(each, None)

    async def _seen(self, fetched: Fetched, index: str, project: str) -> Manifest | None:
        match fetched.after:
            case decide.Fail() as after:
                raise decide.failure(after, fetched.status)
            case decide.Fallback() as after:
                raise UpstreamFailed(after.because, status=503, retry_after=2, upstream_status=fetched.status)
            case decide.Keep(negative=True):
                return None
            case _:
                if isinstance(fetched.manifest, asyncio.Task):
                    return (await asyncio.shield(fetched.manifest))[0]
                return fetched.manifest or await self.manifest(index, project)

    def _remember_look(self, key: str, failure: UpstreamFailed | None, mark: int) -> None:
        if self._store.fence.hides(mark, *page_named(key)):
            return  # or it would be taken for a look that found nothing
        self._looked.pop(key, None)
        self._looked[key] = (self._clock(), None if failure is None else failure.anew())
        while len(self._looked) > _LOOKS:
            self._looked.popitem(last=False)

    def _within(self, since: float) -> bool:
        return 0 <= self._clock() - since < self._rules.min_reload_interval

    # -- the page as bytes -----------------------------------------------------------------------------------

    async def _show(
        self, request: Request, entry: Entry, view: View, status: CacheStatus, rendition: bytes | None
    ) -> Answer:
        if entry.head.status != 200:
            raise Refused(_MISSING, status=404, outcome="negative")
        if rendition is None:
            raise UpstreamFailed("the page was evicted a moment ago; ask again", status=503, retry_after=1)
        etag = view.etag(rendition)
        if not_modified(request.headers, etag=etag, last_modified=None):
            return self._as_bytes(entry, view, status, etag, None)
        quick = view.coding or len(rendition) <= INLINE
        body = body_of(rendition, view) if quick else await asyncio.to_thread(body_of, rendition, view)
        return self._as_bytes(entry, view, status, etag, body)

    def _as_bytes(self, entry: Entry, view: View, status: CacheStatus, etag: str, body: bytes | None) -> Answer:
        """The page, or without a body that it is the one the client has."""
        headers: Headers = (
            ("ETag", etag),
            ("Vary", "Accept, Accept-Encoding"),
            *response_headers(entry.head, self._clock(), self._rules),
        )
        serial = entry.head.header("X-PyPI-Last-Serial")
        if serial is not None:
            headers += (("X-PyPI-Last-Serial", serial),)
        if body is None:
            return Answer(304, headers, b"", status, stop=0)
        headers += (("Content-Type", view.content_type()),)
        if view.coding:
            headers += (("Content-Encoding", view.coding),)
        return Answer(200, headers, body, status, stop=len(body))

    def _lasting(self, request: Request, target: PageTarget, entry: Entry, view: View, answer: Answer) -> Answer:
        """The answer, and how to give it again."""
        key, etag = view.key(entry), next(value for name, value in answer.headers if name == "ETag")
        body = answer.body if answer.status == 200 and isinstance(answer.body, bytes) else None

        def again() -> tuple[Answer, float] | None:
            if self._lookups.at_hand(target) is not entry or not self._store.at_hand.value("responses", key):
                return None
            self._store.at_hand.use("responses", BASE.key(entry))
            now = self._clock()
            before = decide.before_upstream(request, entry, now, self._rules)
            if not isinstance(before, decide.Serve) or before.refresh_behind:
                return None
            return self._as_bytes(entry, view, served(before), etag, body), until(now, entry.head)

        return replace(answer, lasting=Lasting((("responses", entry.key), ("responses", key)), again))
