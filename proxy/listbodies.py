"""The project list as bytes: fetched into one form, JSON and gzip-coded; every other form is made from that.

Each form is a body with a row of its own, made once per version of the list, when it is first asked for. Making one
follows the list while that is still on its way: whoever comes first gets first bytes, in whatever form, as long as
the upstream sends. Of nothing is the end shown before the whole list has proved itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, closing, suppress
from dataclasses import dataclass, replace
from functools import partial

from proxy.answer import StoredStream, Stream
from proxy.bodies import Spool
from proxy.codings import compressor
from proxy.conversion import Conversion, Converter
from proxy.core import decide
from proxy.core.anchors import events_of
from proxy.core.freshness import storable, validators
from proxy.core.messages import Entry, Head, Headers, ListTarget, Request, Rules, kept_head
from proxy.core.negotiation import HTML, HTML_V1, JSON_V1, UPSTREAM_ACCEPT, Coding
from proxy.core.projects import JsonEvents
from proxy.core.projectwriters import HtmlWriter, JsonWriter
from proxy.core.urls import list_key, tag_of, without_query
from proxy.errors import StoreFailed, UpstreamFailed
from proxy.fence import page_named
from proxy.fill import Fill
from proxy.fills import Fills
from proxy.follower import Follower
from proxy.plan import Completed, Plan
from proxy.replies import Reply, passing
from proxy.store import Store, StoredFile
from proxy.unpacking import Gunzip, decoder_of
from proxy.upstream import Upstream

_DIGEST = 32
_GROWTH = 8
"""Escapes make a list larger, but hardly so much."""
_RATIO = 2000
"""What we have packed ourselves may be of any list; gzip cannot do better than 1030:1."""
_AT_ONCE = 6
"""Forms that are made at one time: each takes a few MB."""
_FORMATS = {JSON_V1: "json", HTML_V1: "html", HTML: "html"}
_ANY = Request("GET", ListTarget("", ""), {})


class NotModified(UpstreamFailed):
    """The upstream answered 304: there is no body to follow."""

    def __init__(self, head: Head) -> None:
        super().__init__("the upstream answered 304", upstream_status=304)
        self.head = head


@dataclass(frozen=True, slots=True)
class ListView:
    """How one client wants to see a list."""

    media_type: str
    coding: Coding

    @property
    def form(self) -> tuple[str, Coding]:
        """What it shares with other views: the bytes of both HTML types are the same."""
        return _FORMATS[self.media_type], self.coding

    def key(self, entry: Entry) -> str:
        """The store key of the body behind this view, for the list whose first form is that entry."""
        return _key(entry, self.form)

    def etag(self, sha256: str) -> str:
        """A strong ETag: it differs for every media type and coding of a list (RFC 9110 §8.8.3), and follows from
        the ``sha256`` of its first form, so that it is known without making any other."""
        kind = {JSON_V1: "j", HTML_V1: "v", HTML: "h"}[self.media_type]
        return f'"{sha256[:_DIGEST]}-{kind}{self.coding[:1] or "i"}"'

    def headers(self) -> Headers:
        """Content-Type, and Content-Encoding where there is one."""
        media_type = f"{HTML}; charset=utf-8" if self.media_type == HTML else self.media_type
        return (("Content-Type", media_type), *([("Content-Encoding", self.coding)] if self.coding else []))


FIRST = ListView(JSON_V1, "gzip")
_CODINGS: tuple[Coding, ...] = ("", "gzip", "zstd")
_FORMS = [ListView(media_type, coding).form for media_type in (JSON_V1, HTML) for coding in _CODINGS]


def _key(entry: Entry, form: tuple[str, Coding]) -> str:
    return f"{entry.key}|{entry.sha256[:_DIGEST]}|{'|'.join(form)}"


def _whole(_: Reply) -> tuple[int, None]:
    """What ``Plan.judge`` says of a body that is looked at where it comes from."""
    return 0, None


class ListBodies:
    """The lists of all indexes; ``sites`` gives each index's URL with its final slash, ``limit`` is the most decoded
    bytes."""

    def __init__(
        self,
        sites: Mapping[str, str],
        fills: Fills,
        store: Store,
        upstream: Upstream,
        *,
        rules: Rules,
        limit: int,
        clock: Callable[[], float],
    ) -> None:
        self._sites = sites
        self._fills = fills
        self._store = store
        self._upstream = upstream
        self._rules = rules
        self._limit = limit
        self._clock = clock
        self._converter = Converter()
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._latest: dict[str, Fill] = {}

    def close(self) -> None:
        """Begin nothing any more."""
        self._converter.close()

    async def stored(self, index: str, view: ListView = FIRST, first: Entry | None = None) -> StoredFile | None:
        """The list in its first form, or in that of a view, which is one of ``first``; None when it is not there."""
        try:
            return await self._store.stored("responses", list_key(index) if first is None else view.key(first))
        except StoreFailed:
            return None

    # -- the first form --------------------------------------------------------------------------------------

    def fetch(self, index: str, entry: Entry | None) -> tuple[Follower, bool]:
        """Follow the list in its first form as it is fetched, and whether somebody did already; ``entry`` is the one
        that is stored. The fill fails with NotModified when that is still the one."""
        site, since = self._sites[index], self._store.mark()

        async def keep(spool: Spool, completed: Completed) -> None:
            if storable(completed.head, self._rules):
                key, head = list_key(index), kept_head(completed.head)
                made = Entry(key, tag_of(index, ""), without_query(site), head, "", completed.size, completed.sha256)
                old = await self._store.entry("responses", key)
                await self._store.adopt("responses", spool, made, "projects", since=since)
                if old is not None and old.sha256 != made.sha256:
                    await self._store.remove("responses", [_key(old, form) for form in _FORMS])

        plan = Plan(
            key=list_key(index),
            index=index,
            url=site,
            judge=_whole,
            keep=keep,
            pool="page",
            headers={
                "Accept": UPSTREAM_ACCEPT,
                "Accept-Encoding": "gzip",
                **(validators(entry.head) if entry is not None else {}),
            },
            limit=_GROWTH * self._limit,
            source=partial(self._fetched, index, entry),
            named=page_named(list_key(index)),
            since=since,
        )
        follower, joined = self._fills.join(plan)
        self._latest[index] = follower.fill
        return follower, joined

    @asynccontextmanager
    async def _fetched(self, index: str, entry: Entry | None, headers: Mapping[str, str]) -> AsyncIterator[Reply]:
        site = self._sites[index]
        async with self._upstream.open(index, site, pool="page", headers=headers) as reply:
            self._check(reply.head, entry)
            events = events_of(reply.head.header("Content-Type") or HTML, reply.url, site)
            decoder = decoder_of(reply, limit=self._limit)
            conversion = Conversion(decoder, JsonWriter(events), compressor(FIRST.coding))
            async with aclosing(self._converter.converted(reply.chunks, conversion)) as converted:

                async def chunks() -> AsyncIterator[bytes]:
                    async for chunk in converted:
                        yield chunk
                    if not reply.framed and not events.ended:
                        raise passing("the list may have been cut short")

                yield replace(reply, length=None, framed=True, chunks=chunks())

    def _check(self, head: Head, entry: Entry | None) -> None:
        """Raise what a head means that is not followed by a list to take."""
        if head.status == 304 and entry is not None:
            raise NotModified(head)
        after = decide.after_upstream(_ANY, entry if head.status == 200 else None, head, self._clock(), self._rules)
        match after:
            case decide.Keep(negative=False) | decide.Relay():
                return
            case decide.Fail():
                raise decide.failure(after, head.status)
            case decide.Fallback():
                raise UpstreamFailed(after.because, upstream_status=head.status)
            case _:  # Keep, but as a page that is missing
                raise UpstreamFailed("the index has no project list", upstream_status=head.status)

    # -- every other form ------------------------------------------------------------------------------------

    def make(self, index: str, view: ListView, of: Fill | Entry) -> Follower:
        """Follow the list as it is brought into the form of that view, from the first one that is being fetched or is
        stored. Raises UpstreamFailed as ``Fills.join``."""
        latest = self._latest.get(index)
        if isinstance(of, Entry) and latest is not None and latest.completed is not None:
            # It may be in the making still, since the time when that list was fetched.
            of = latest if latest.completed.sha256 == of.sha256 else of
        version = of.sha256 if isinstance(of, Entry) else str(id(of))
        since = self._store.mark()
        plan = Plan(
            key=f"{list_key(index)}|{version}|{'|'.join(view.form)}",
            index=index,
            url=self._sites[index],
            judge=_whole,
            keep=partial(self._keep, index, view, of, since),
            pool="page",
            limit=_GROWTH * self._limit,
            source=partial(self._made, index, view, of),
            named=page_named(list_key(index)),
            since=since,
        )
        return self._fills.join(plan)[0]

    @asynccontextmanager
    async def _made(
        self, index: str, view: ListView, of: Fill | Entry, headers: Mapping[str, str]
    ) -> AsyncIterator[Reply]:
        form, coding = view.form
        async with self._slots:
            stream, head = await self._open(index, of)
            with closing(stream):
                writer = HtmlWriter(JsonEvents()) if form == "html" else None
                conversion = Conversion(Gunzip(_GROWTH * self._limit, _RATIO), writer, compressor(coding))
                read = self._converter.read(stream)
                async with aclosing(read), aclosing(self._converter.converted(read, conversion)) as converted:

                    async def chunks() -> AsyncIterator[bytes]:
                        try:
                            async for chunk in converted:
                                yield chunk
                        except UpstreamFailed:
                            if isinstance(stream, StoredStream):
                                # The disk has damaged it: nobody else shall stumble over it.
                                with suppress(StoreFailed):
                                    await self._store.remove("responses", [list_key(index)])
                            raise

                    yield Reply(head, "", None, True, chunks())

    async def _open(self, index: str, of: Fill | Entry) -> tuple[Stream, Head]:
        """The bytes of the first form, and its head."""
        if isinstance(of, Fill) and of.head is not None and (of.followers > 0 or not of.settled):
            return Follower(of), of.head
        stored = await self.stored(index)
        if stored is not None and stored.entry.sha256 == _sha256(of):
            return StoredStream(stored.handle, stored.entry.size), stored.entry.head
        if stored is not None:
            stored.close()
        raise UpstreamFailed("the list was replaced a moment ago; ask again", status=503, retry_after=1)

    async def _keep(
        self, index: str, view: ListView, of: Fill | Entry, since: int, spool: Spool, completed: Completed
    ) -> None:
        """Keep it as long as the list that it is made of is the one that is kept."""
        if isinstance(of, Fill) and of.task is not None:
            # It ends with the row of the first form, which may come a moment after its last byte.
            await asyncio.wait([of.task])
        first = await self._store.entry("responses", list_key(index))
        if first is not None and first.sha256 == _sha256(of):
            made = replace(first, key=view.key(first), body="", size=completed.size, sha256=completed.sha256)
            await self._store.adopt("responses", spool, made, "projects", since=since)


def _sha256(of: Fill | Entry) -> str | None:
    if isinstance(of, Entry):
        return of.sha256
    return of.completed.sha256 if of.completed is not None else None
