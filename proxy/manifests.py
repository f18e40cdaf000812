"""What pages listed, by location: the wall against open proxying.

A listing lies in the store beside its page and is kept even where the page itself must not be; a bounded number
of them stays decoded in memory.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

from proxy.core.patterns import Selection
from proxy.core.simple import Listed, load_listing
from proxy.core.urls import listing_key, location_of, tag_of
from proxy.errors import StoreFailed
from proxy.fence import page_named
from proxy.room import Row
from proxy.store import Store

Manifest = Mapping[str, Listed]
Coming = asyncio.Task[tuple[Manifest, Row]]

_FILES_IN_MEMORY = 50_000
_INLINE = 16 * 1024
"""Bytes up to which a listing is decoded on the spot."""
_AFTER_THE_PAGE = 0.001
_AFTER_A_LARGE_PAGE = 0.005
"""Seconds after which the page has been sent, but for what a network keeps waiting."""


class Manifests:
    """Listings of all projects. ``put`` replaces one, ``of`` finds one."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._decoded: OrderedDict[str, Manifest] = OrderedDict()
        self._coming: dict[str, Coming] = {}
        self._files = 0

    async def of(self, index: str, project: str) -> Manifest | None:
        """The last listing of that project; None when no page of it is known."""
        key, since = listing_key(index, project), self._store.mark()
        if (coming := self._coming.get(key)) is not None:
            return (await asyncio.shield(coming))[0]
        manifest = self._decoded.get(key)
        if manifest is not None:
            self._decoded.move_to_end(key)
            # The row is in use, too: or it would go before the page, and after a restart no file of that be found.
            self._store.at_hand.use("responses", key)
            return manifest
        try:
            row = await self._store.read(key)
            if row is None:
                return None
            quick = len(row) <= _INLINE
            manifest = _decoded(row) if quick else await asyncio.to_thread(_decoded, row)
        except (StoreFailed, ValueError):
            return None
        # While the row was read a newer listing may have been put: it must not be replaced by the older one.
        return self._decoded[key] if key in self._decoded else self._remember(key, manifest, since)

    def at_hand(self, index: str, project: str) -> Manifest | None:
        """The last listing of that project if it is decoded."""
        return self._decoded.get(listing_key(index, project))

    def put(self, index: str, project: str, manifest: Manifest, dumped: bytes, since: int | None = None) -> Row:
        """Take a new listing, and its dump, of a page that was asked for after the mark ``since``; returns the row
        that keeps it."""
        key = listing_key(index, project)
        self._remember(key, manifest, since)
        self._store.at_hand.changed("responses", key)
        return Row(key, dumped, tag_of(index, project))

    def take(
        self, index: str, project: str, make: Callable[[], tuple[Manifest, bytes]], since: int, *, quick: bool
    ) -> Coming:
        """The same of a listing that is to be made, behind: nobody who wants the page waits for it, and who wants one
        of its files does. A ``quick`` one needs no thread."""
        key = listing_key(index, project)

        async def making() -> tuple[Manifest, Row]:
            await asyncio.sleep(_AFTER_THE_PAGE if quick else _AFTER_A_LARGE_PAGE)
            manifest, dumped = make() if quick else await asyncio.to_thread(make)
            return manifest, self.put(index, project, manifest, dumped, since)

        def made(_: Coming) -> None:
            if self._coming.get(key) is coming:
                del self._coming[key]

        self._files -= len(self._decoded.pop(key, ()))
        self._store.at_hand.changed("responses", key)
        coming = self._coming[key] = asyncio.create_task(making())
        coming.add_done_callback(made)
        return coming

    def forget(self, selection: Selection) -> None:
        """Drop the listings of pages that were removed."""
        for key in [key for key in self._coming if selection.covers(*page_named(key))]:
            del self._coming[key]
        for key in [key for key in self._decoded if selection.covers(*page_named(key))]:
            self._files -= len(self._decoded.pop(key))

    def _remember(self, key: str, manifest: Manifest, since: int | None) -> Manifest:
        if since is not None and self._store.fence.hides(since, *page_named(key)):
            return manifest
        self._files += len(manifest) - len(self._decoded.pop(key, ()))
        self._decoded[key] = manifest
        while self._files > _FILES_IN_MEMORY and len(self._decoded) > 1:
            self._files -= len(self._decoded.popitem(last=False)[1])
        return manifest


def manifest_of(files: Iterable[Listed], links: Mapping[str, str] | None = None) -> Manifest:
    """Files by location; the first of two that share one counts. What has no place below a path of ours is left
    out: a URL with userinfo, say. ``links``: the locations that are known already, by URL."""
    manifest: dict[str, Listed] = {}
    known = links or {}
    for listed in files:
        with suppress(ValueError):
            manifest.setdefault(known.get(listed.url) or location_of(listed.url), listed)
    return manifest


def _decoded(row: bytes) -> Manifest:
    return manifest_of(load_listing(row))
