"""Renditions that are not there yet: made from another, once however many ask, and kept as long as their version."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from proxy.asking import INLINE
from proxy.core.messages import Entry
from proxy.errors import StoreFailed
from proxy.flights import Flights
from proxy.lookups import Lookups
from proxy.renditions import BASE, View, derive, recode
from proxy.room import Row
from proxy.store import Store


class Derivations:
    """The renditions of all pages; at most ``waiters`` clients wait for the same one."""

    def __init__(self, lookups: Lookups, store: Store, *, waiters: int) -> None:
        self._lookups = lookups
        self._store = store
        self._flights: Flights[bytes | None] = Flights(waiters=waiters)

    async def close(self) -> None:
        """Cancel what is under way."""
        await self._flights.close()

    async def rendition(self, entry: Entry, view: View, base: bytes | None = None) -> bytes | None:
        """The rendition behind that view of a page, ``base`` being its base when that is at hand; None when all
        that it could be made from was evicted, or replaced with its page. Raises UpstreamFailed (503) on a crowd."""
        key = view.key(entry)
        if base is not None and key == BASE.key(entry):
            return base
        try:
            stored = await self._store.read(key)
        except StoreFailed:
            stored = None
        if stored is not None:
            # Or it would be the first to go, and other clients would ask in vain for the same page.
            self._store.at_hand.use("responses", BASE.key(entry))
            return stored
        flight, _ = self._flights.join(key, lambda: self._derive(entry, view, base))
        return await asyncio.shield(flight)

    async def _derive(self, entry: Entry, view: View, base: bytes | None) -> bytes | None:
        """Make a rendition from another, and keep it as long as its version is the one that is kept."""
        since = self._store.mark()
        make: Callable[[bytes], bytes]
        try:
            if view.coding == "zstd":
                source, make = await self.rendition(entry, view.source, base), recode
            else:
                source, make = base or await self._store.read(BASE.key(entry)), partial(derive, view=view)
            if source is None or view.key(entry) == BASE.key(entry):
                return source
            made = make(source) if len(source) <= INLINE // 4 else await asyncio.to_thread(make, source)
        except (StoreFailed, ValueError):
            return None
        current = await self._lookups.stored_head(entry.key)
        if current is not None and current.body == entry.body:
            await self._store.behind.write([Row(view.key(entry), made, entry.tag)], (), since)
        return made
