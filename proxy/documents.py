"""JSON API documents as their upstreams have them: asked for at most once at a time, checked, and kept.

What is kept of a document are two rows: its head, and one body with a place for the root, coded. Both are written in
one transaction; a 404 is remembered in memory beside the last good document, never in its place.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import assert_never

from proxy.asking import INLINE
from proxy.codings import compress
from proxy.core import decide
from proxy.core.freshness import validators
from proxy.core.jsonapi import base_of, parse
from proxy.core.messages import Entry, Head, JsonTarget, Request, Rules, kept_head
from proxy.core.negotiation import Coding
from proxy.core.patterns import Selection
from proxy.core.urls import json_key, json_url, tag_of, without_query
from proxy.entries import dump_entry
from proxy.errors import Refused, StoreFailed, UpstreamFailed
from proxy.fence import page_named
from proxy.flights import Flights, Waiting
from proxy.lookups import Fetched, PageLimits
from proxy.room import Row
from proxy.store import Store
from proxy.unpacking import read_body
from proxy.upstream import Upstream

_RENDERING = "1"
"""Part of every version: raised when the same upstream document would be rendered otherwise than before."""
_HEADERS = {"Accept": "application/json", "Accept-Encoding": "gzip"}
_NEGATIVES = 10_000
BASE_CODING: Coding = "zstd"
"""How a kept body is coded: it is decoded whenever a root is put in."""

# The entry that speaks for a document, and its body as kept when that is a document and not a 404.
Held = tuple[Entry | None, bytes | None]


@dataclass(frozen=True, slots=True)
class _Received:
    entry: Entry
    base: bytes


class Documents:
    """The documents of all indexes; ``sites`` gives each index's URL with its final slash."""

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
        self._flights: Flights[Fetched] = Flights(waiters=limits.waiters)
        self._negatives: OrderedDict[str, Entry] = OrderedDict()

    async def close(self) -> None:
        """Cancel the fetches under way."""
        await self._flights.close()

    @property
    def waiting(self) -> Waiting:
        """Who waits for a document."""
        return self._flights.waiting

    def forget(self, selection: Selection) -> None:
        """Drop what is remembered of the documents that were removed. Who asks for one from here on shares no look
        that began before."""
        for key in [key for key in self._negatives if selection.covers(*page_named(key))]:
            del self._negatives[key]
        self._flights.part_with(lambda key: selection.covers(*page_named(key)))

    async def known(self, target: JsonTarget) -> Held:
        """A 404 while it is remembered, else the last good document. A head without its body is no entry; where one
        version took the place of another between the two reads, both are read again.

        Raises Refused (404) for an index that has no such API.
        """
        self.url_of(target)
        key = json_key(target)
        negative = self._negatives.get(key)
        if negative is not None and 0 <= self._clock() - negative.head.received_at < self._rules.negative_ttl:
            return negative, None
        return await self._good(key)

    async def _good(self, key: str) -> tuple[Entry | None, bytes | None]:
        for _ in range(2):
            try:
                entry = await self._store.entry("responses", key)
            except StoreFailed:
                entry = None
            if entry is None:
                break
            if (base := await self.base(entry)) is not None:
                return entry, base
        return None, None

    async def base(self, entry: Entry) -> bytes | None:
        """The kept body of a document; None when it is gone, or no store tells."""
        try:
            return await self._store.read(_base_key(entry))
        except StoreFailed:
            return None

    def fetch(self, target: JsonTarget, request: Request, entry: Entry | None) -> tuple[asyncio.Task[Fetched], bool]:
        """The look that is under way for that document, or a new one; and whether it was. Await it shielded."""
        return self._flights.join(json_key(target), lambda: self._fly(target, request, entry))

    def under_way(self, target: JsonTarget) -> bool:
        """Whether somebody looks at that document now."""
        return self._flights.under_way(json_key(target)) is not None

    def url_of(self, target: JsonTarget) -> str:
        """Where its index has the document. Raises Refused (404) for an index that has no such API."""
        url = json_url(self._sites[target.index], target)
        if url is None:
            raise Refused("this index has no JSON API", status=404)
        return url

    async def _fly(self, target: JsonTarget, request: Request, entry: Entry | None) -> Fetched:
        since = self._store.mark()
        if entry is not None and entry.head.status != 200:
            # A 404 that is remembered stands beside the last good document: what comes is measured against that.
            entry, base = await self._good(entry.key)
        else:
            base = None if entry is None else await self.base(entry)
        # Without its body a document is no use when it only proves unchanged.
        conditional = None if base is None else entry
        outcome, received = await self._ask(target, conditional)
        if decide.doubtful(entry, outcome, self._clock()):
            outcome, received = await self._ask(target, None)
        after = decide.after_upstream(request, entry, outcome, self._clock(), self._rules)
        status = outcome.status if isinstance(outcome, Head) else outcome.upstream_status
        match after:
            case decide.Keep(negative=True):
                assert isinstance(outcome, Head)
                return Fetched(after, status, self._remember_missing(target, outcome, since))
            case decide.Keep() | decide.Relay():
                assert received is not None
                if isinstance(after, decide.Keep):
                    await self._take(received, entry, since)
                return Fetched(after, status, received.entry, received.base)
            case decide.Refresh():
                assert entry is not None
                entry = replace(entry, head=after.head)
                await self._refresh(entry, since)
                return Fetched(after, status, entry, base)
            case decide.Fallback() | decide.Fail():
                return Fetched(after, status, entry)
            case _:
                assert_never(after)

    async def _ask(self, target: JsonTarget, entry: Entry | None) -> tuple[Head | UpstreamFailed, _Received | None]:
        """The upstream's head, and with a 200 its document; a failure to get it is an outcome, no error."""
        headers = _HEADERS if entry is None else _HEADERS | validators(entry.head)
        status = None
        try:
            async with self._upstream.open(target.index, self.url_of(target), pool="page", headers=headers) as reply:
                status = reply.head.status
                if reply.head.status != 200:
                    return reply.head, None
                # A body cut short needs no other proof: half an object is no JSON.
                body = await read_body(reply, limit=self._limits.page_max)
            quick = len(body) <= INLINE
            made = (target, reply.head, reply.url, body)
            return reply.head, _received(*made) if quick else await asyncio.to_thread(_received, *made)
        except UpstreamFailed as failure:
            return failure.after(status), None

    def _remember_missing(self, target: JsonTarget, head: Head, since: int) -> Entry:
        entry = Entry(json_key(target), tag_of(target.index, target.project), "", head, "", 0, "")
        if self._store.fence.hides(since, *page_named(entry.key)):
            return entry
        self._negatives[entry.key] = entry
        self._negatives.move_to_end(entry.key)
        while len(self._negatives) > _NEGATIVES:
            self._negatives.popitem(last=False)
        return entry

    async def _take(self, received: _Received, old: Entry | None, since: int) -> None:
        entry = received.entry
        self._negatives.pop(entry.key, None)
        rows = [Row(_base_key(entry), received.base, entry.tag), Row(entry.key, dump_entry(entry), entry.tag)]
        drop = [_base_key(old)] if old is not None and old.body != entry.body else []
        await self._write(rows, since, drop)

    async def _refresh(self, entry: Entry, since: int) -> None:
        # A head without its body would be kept where another version came meanwhile, or where it was removed.
        with suppress(StoreFailed):
            current = await self._store.entry("responses", entry.key)
            if current is not None and current.body == entry.body:
                await self._write([Row(entry.key, dump_entry(entry), entry.tag)], since)

    async def _write(self, rows: list[Row], since: int, drop: Sequence[str] = ()) -> None:
        # A store that fails costs only the keeping.
        with suppress(StoreFailed):
            await self._store.write(rows, drop=drop, since=since)


def _received(target: JsonTarget, head: Head, url: str, body: bytes) -> _Received:
    version = hashlib.sha256(f"{_RENDERING}\0{url}\0".encode() + body).hexdigest()
    base = compress(base_of(parse(body, target), url, target.index), BASE_CODING)
    key, tag = json_key(target), tag_of(target.index, target.project)
    return _Received(Entry(key, tag, without_query(url), kept_head(head), version, len(body), version), base)


def _base_key(entry: Entry) -> str:
    return f"{entry.key}|{entry.body}"
