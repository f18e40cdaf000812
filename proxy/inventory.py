"""What is kept, for those who run the place: sums, lists, and what they take away.

A walk goes in steps: a short job of SQL on the store's one thread, then names are compared and heads decoded on
another. Its place is that of a row in their order, which is that of rooms and row ids, or, where projects or an index
are asked for, of tags and row ids: so it goes on wherever it stopped, and what stayed in the meantime is named once.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from functools import partial
from typing import TypeVar

from proxy.core.patterns import EVERYTHING, Selection
from proxy.directory import ROOMS, RoomName
from proxy.fence import Fence
from proxy.kept import Cursor, Kept, Removed, Sum, Sums
from proxy.listed import KINDS, Listed, Used, is_everything, selected, told
from proxy.room import STEP
from proxy.rows import Rows
from proxy.stock import FIRST, Place, Seen, begin_anew, indexes, place_of, rows_after, rows_behind, take, text_of
from proxy.workers import Workers

T = TypeVar("T")

BATCH = 500
"""Rows of one look: some 2 ms of the store's thread, and then 4 ms of another, JSON and all."""
Span = tuple[bytes, bytes]
"""Tags from the first on, below the second."""


class Inventory:
    """The rows of all rooms. Every coroutine raises StoreFailed, nothing else.

    A row that we did not write, or that was damaged since, is there with what can still be told of it. Only one whose
    tag is no text is in no list: it goes with everything, or with the next sweep. ``removed`` is what was, so far.
    """

    def __init__(self, workers: Workers, rows: Rows, fence: Fence) -> None:
        self._workers = workers
        self._rows = rows
        self._fence = fence
        self.removed = Sum(0, 0)

    def sums(self) -> Sums:
        """What is kept now; costs nothing."""
        files, wheels = self._workers.rooms["wheels"].sums
        responses, _ = self._workers.rooms["responses"].sums
        mounts, _ = self._workers.rooms["mounts"].sums
        sdists = Sum(max(0, files.count - wheels.count), max(0, files.bytes - wheels.bytes))
        return Sums(wheels, sdists, responses, mounts)

    def walk(
        self, selection: Selection, after: Cursor | None = None, *, batch: int = BATCH
    ) -> AsyncGenerator[Listed, None]:
        """All that is selected behind ``after``; ``batch`` rows are looked at at once, so no list is longer, and none
        is empty."""
        return self.written(selection, after, _as_it_is, batch=batch)

    async def written(
        self, selection: Selection, after: Cursor | None, write: Callable[[Listed], T], *, batch: int = BATCH
    ) -> AsyncGenerator[T, None]:
        """What becomes of each list of a walk: ``write`` is called for one after the other, off the event loop."""

        def made(name: RoomName, rows: Sequence[Seen], used: Used) -> list[T]:
            listed = told(name, rows, selection, used)
            return [write(listed)] if listed.kept else []

        for name in _rooms(selection, after):
            async for rows, used in self._steps(name, selection, after, batch):
                for each in await self._workers.walk(made, name, rows, used):
                    yield each

    async def page(self, selection: Selection, after: Cursor | None, limit: int) -> tuple[list[Kept], Cursor | None]:
        """The first ``limit`` (one at least) behind ``after``; the cursor is None when there are no more."""
        kept: list[Kept] = []
        cursor: Cursor | None = None
        async for listed in self.walk(selection, after, batch=min(limit + 1, BATCH)):
            left = limit - len(kept)
            if left:
                kept += listed.kept[:left]
                cursor = listed.cursor(min(left, len(listed.kept)) - 1)
            if len(listed.kept) > left:
                return kept, cursor
        return kept, None

    async def remove(self, selection: Selection, *, dry_run: bool = False) -> Removed:
        """Delete what is selected, in steps; when it returns their bodies are unlinked, and whoever has one open
        reads to its end. Each step is done as a whole or not at all: of a caller who is cancelled, or a disk that
        fails, what is left is as it was."""
        kept: list[Kept] = []
        directories = 0
        if dry_run:
            async for listed in self.walk(selection):
                kept += listed.kept
        else:
            with self._fence.raised(selection):
                try:
                    for name in _rooms(selection, None):
                        directories += await self._remove(name, selection, kept)
                finally:
                    if selection == Selection(EVERYTHING, kinds=selection.kinds):
                        self._workers.sweep()
                await self._workers.tidy()
            # From here on nothing is waited for: whoever called tears down in the same breath as the fence.
        return Removed(tuple(kept), sum(each.size for each in kept), directories)

    async def _remove(self, name: RoomName, selection: Selection, kept: list[Kept]) -> int:
        if is_everything(name, selection):
            return await self._empty(name, selection, kept)
        directories = 0
        async for rows, used in self._steps(name, selection, None, STEP):
            matches = await self._workers.walk(selected, name, rows, selection)
            while matches:
                went, emptied = await self._workers.clear(name, partial(take, rows=matches), frees=True)
                gone = [match for match, itself in zip(matches, went, strict=False) if itself]
                self._went(kept, (await self._workers.walk(told, name, gone, selection, used)).kept)
                matches, directories = matches[len(went) :], directories + emptied
        return directories

    async def _empty(self, name: RoomName, selection: Selection, kept: list[Kept]) -> int:
        """All rows at once, then their bodies; those of a caller who is cancelled in between are left to the sweep."""
        since, bodies, known, listed = time.time(), set[str](), set[int](), list[Kept]()
        async for rows, used in self._steps(name, selection, None, BATCH):
            listed += (await self._workers.walk(told, name, rows, selection, used)).kept
            bodies |= _bodies(rows)
            known.update(row[0] for row in rows)
        late = await self._workers.begin_anew(name, partial(begin_anew, since=since))
        bodies |= _bodies(late)
        late = [row for row in late if row[0] not in known]
        listed += (await self._workers.walk(told, name, late, selection, self._rows.used(name))).kept
        self._went(kept, listed)
        directories, names = 0, sorted(bodies)
        for start in range(0, len(names), STEP):
            directories += await self._workers.unlink(name, names[start : start + STEP])
        return directories

    def _went(self, kept: list[Kept], went: Sequence[Kept]) -> None:
        kept += went
        size = sum(each.size for each in went)
        self.removed = Sum(self.removed.count + len(went), self.removed.bytes + size)

    async def _steps(
        self, name: RoomName, selection: Selection, after: Cursor | None, batch: int
    ) -> AsyncIterator[tuple[list[Seen], Used]]:
        start = (b"", FIRST) if after is None or after.room != name else _place(after)
        for span in await self._spans(name, selection):
            place = start if span is None else max(start, (span[0], FIRST))
            more = span is None or place[0] < span[1]
            while more:
                used = self._rows.used(name)
                if span is None:
                    ask = partial(rows_after, rowid=place[1], most=batch)
                else:
                    ask = partial(rows_behind, place=place, high=span[1], most=batch)
                rows = await self._workers.ask(name, ask, writes=False)
                more = len(rows) == batch
                place = place_of(rows[-1]) if rows else place
                yield rows, used

    async def _spans(self, name: RoomName, selection: Selection) -> Sequence[Span | None]:
        """The tags that can be in question; None is all of them."""
        if selection.project is None and selection.index is None:
            return [None]
        if selection.project is None:
            return [(_bytes(f"{selection.index}/"), _bytes(f"{selection.index}0"))]  # "0" comes next to "/"
        if selection.index is not None:
            names = [_bytes(selection.index)]
        else:
            names = await self._workers.ask(name, indexes, writes=False)
        tags = [b"%b/%b" % (each, _bytes(selection.project)) for each in names]
        return [(tag, tag + b"\0") for tag in tags]


def _as_it_is(listed: Listed) -> Listed:
    return listed


def _rooms(selection: Selection, after: Cursor | None) -> list[RoomName]:
    return [name for name in ROOMS if selection.kinds & KINDS[name] and (after is None or name >= after.room)]


def _bodies(rows: Sequence[Seen]) -> set[str]:
    return {text_of(filename) for _, _, _, filename, *_ in rows if filename}


def _bytes(text: str) -> bytes:
    return text.encode(errors="replace")


def _place(cursor: Cursor) -> Place:
    # Latin-1 has a letter for each byte, and a cursor may come from a client.
    return cursor.tag.encode("latin-1", "replace"), min(max(cursor.rowid, FIRST), -FIRST - 1)
