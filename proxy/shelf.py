"""What is kept of mounts: for every URL a list of its variants, and each of them a row with its body (RFC 9111 §4.1).

The body comes first, the list last: one that is on no list is found by nobody, and the least recently used go first.
A kill between the two leaves such a body, as the eviction of a list does. It is no orphan: its row names it and counts
it, operators see it, and the next answer to the same request takes its row, and its place.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, replace
from weakref import WeakValueDictionary

from proxy.bodies import Spool
from proxy.core.messages import Entry, Head, RawTarget, Request
from proxy.core.mounted import body_name, place_of, raw_key, tag_of_mount, variants_key
from proxy.core.urls import without_query
from proxy.core.variants import Variant, chosen_by, dumped, loaded, matching, precedence, with_newest
from proxy.errors import StoreFailed
from proxy.fence import Named, name_of
from proxy.room import Row
from proxy.store import Store, StoredFile


@dataclass(frozen=True, slots=True)
class Found:
    """What is here for a request: the entry that may answer it, None without one, and the variant that it would most
    likely be: whoever asks for that one asks for the same."""

    entry: Entry | None
    variant: Variant


class Shelf:
    """What is kept of all mounts. A store that fails is one with nothing in it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        # A list of variants is read, then written: by one at a time. Other URLs need not wait for the disk.
        self._writing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def find(self, request: Request, target: RawTarget) -> Found:
        """The newest of the stored responses that may answer it, by Vary alone."""
        place = place_of(target.rest)
        variants = await self._variants(target.mount, place)
        found = []
        with suppress(StoreFailed):
            for each in matching(variants, request.headers):
                entry = await self._store.entry("mounts", raw_key(target.mount, place, each.mark))
                if entry is not None:
                    found.append((precedence(each, entry.head), Found(entry, each)))
        if found:
            return max(found, key=lambda each: each[0])[1]
        return Found(None, chosen_by(variants[0].names if variants else (), request.headers))

    async def stored(self, entry: Entry) -> StoredFile | None:
        """Its body, open; None when that is gone."""
        try:
            return await self._store.stored("mounts", entry.key)
        except StoreFailed:
            return None

    def entry_of(self, target: RawTarget, variant: Variant, url: str, head: Head) -> Entry:
        """A response as it will be kept, without the facts of its body."""
        key = raw_key(target.mount, place_of(target.rest), variant.mark)
        return Entry(key, tag_of_mount(target.mount), without_query(url), head, "", 0, "")

    async def keep(
        self, target: RawTarget, variant: Variant, entry: Entry, spool: Spool, since: int, now: float
    ) -> None:
        """Keep a response whose body is complete, unless one is kept that was received later; one from the future was
        received before the clock went back. Raises StoreFailed."""
        place = place_of(target.rest)
        async with self._writing.setdefault(variants_key(target.mount, place), asyncio.Lock()):
            kept = await self._store.entry("mounts", entry.key)
            if kept is not None and entry.head.received_at < kept.head.received_at <= now:
                return
            await self._store.adopt("mounts", spool, entry, body_name(target.rest), since=since)
            before = await self._variants(target.mount, place)
            variants, gone = with_newest(before, variant)
            if variants != before:
                row = Row(variants_key(target.mount, place), dumped(variants), entry.tag)
                await self._store.write([row], since=since)
            if gone:
                await self._store.remove("mounts", [raw_key(target.mount, place, each.mark) for each in gone])

    async def refresh(self, entry: Entry, head: Head) -> Entry:
        """Put a newer head over the body of an entry."""
        newer = replace(entry, head=head)
        with suppress(StoreFailed):
            await self._store.update("mounts", entry.key, newer)
        return newer

    async def invalidate(self, target: RawTarget) -> None:
        """Drop all variants of a URL, also those that were asked for before and will be complete later."""
        with suppress(StoreFailed):
            await self._store.invalidate(target.mount, place_of(target.rest))

    async def drop(self, entry: Entry) -> None:
        """Drop one variant."""
        with suppress(StoreFailed):
            await self._store.remove("mounts", [entry.key])

    def named(self, target: RawTarget) -> Named:
        """What the URL is called when something is removed."""
        key = raw_key(target.mount, place_of(target.rest), "")
        return name_of("mounts", key, tag_of_mount(target.mount), "")

    def hides(self, since: int, target: RawTarget) -> bool:
        """Whether it was removed, or changed by an unsafe method, after that mark."""
        return self._store.fence.hides(since, *self.named(target))

    def mark(self) -> int:
        """Now, for ``since``."""
        return self._store.mark()

    def has_room(self, size: int) -> bool:
        """Whether a body of so many bytes may be kept."""
        return self._store.has_room(size, "mounts")

    async def _variants(self, mount: str, place: str) -> list[Variant]:
        try:
            return loaded(await self._store.read(variants_key(mount, place)))
        except StoreFailed:
            return []
