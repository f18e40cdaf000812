"""What is kept, for those who run the place: sums, lists, and what they take away.

A walk goes in steps: a short job of SQL on the store's one thread, then names are compared and heads decoded on
another. Its place is that of a row in their order, which is that of rooms and row ids, or, where projects or an index
are asked for, of tags and row ids: so it goes on wherever it stopped, and what stayed in the meantime is named once.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from functools import partial

from proxy.core.patterns import EVERYTHING, FILES, RESPONSES, Selection, version_of
from proxy.core.urls import without_query
from proxy.directory import ROOMS, RoomName
from proxy.disk import Foreign, unseal
from proxy.entries import facts_of
from proxy.fence import Fence, Named, name_of
from proxy.kept import Cursor, Kept, Removed, Sum, Sums
from proxy.room import STEP
from proxy.rows import Rows
from proxy.stock import FIRST, Place, Seen, begin_anew, indexes, rows_after, rows_behind, take
from proxy.workers import Workers

BATCH = 500
"""Rows of one look: some 4 ms of the store's thread, and then 8 ms of another."""
Listed = tuple[Kept, Cursor]
Used = tuple[Mapping[str, float], Mapping[str, float]]
Span = tuple[bytes, bytes]
"""Tags from the first on, below the second."""
# The year 10000, which no calendar here has.
_FAR = 253_402_300_800.0


class Inventory:
    """The rows of both rooms. Every coroutine raises StoreFailed, nothing else.

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
        sdists = Sum(max(0, files.count - wheels.count), max(0, files.bytes - wheels.bytes))
        return Sums(wheels, sdists, responses)

    async def walk(
        self, selection: Selection, after: Cursor | None = None, *, batch: int = BATCH
    ) -> AsyncGenerator[list[Listed], None]:
        """All that is selected behind ``after``, each with the cursor behind it; ``batch`` rows are looked at at once,
        so no list is longer."""
        for name in _rooms(selection, after):
            async for rows, used in self._steps(name, selection, after, batch):
                if listed := await self._workers.walk(_listed, name, rows, selection, used):
                    yield listed

    async def page(self, selection: Selection, after: Cursor | None, limit: int) -> tuple[list[Kept], Cursor | None]:
        """The first ``limit`` (one at least) behind ``after``; the cursor is None when there are no more."""
        listed: list[Listed] = []
        async for found in self.walk(selection, after, batch=min(limit + 1, BATCH)):
            listed += found
            if len(listed) > limit:
                return [kept for kept, _ in listed[:limit]], listed[limit - 1][1]
        return [kept for kept, _ in listed], None

    async def remove(self, selection: Selection, *, dry_run: bool = False) -> Removed:
        """Delete what is selected, in steps; when it returns their bodies are unlinked, and whoever has one open
        reads to its end. Each step is done as a whole or not at all: of a caller who is cancelled, or a disk that
        fails, what is left is as it was."""
        kept: list[Kept] = []
        directories = 0
        if dry_run:
            async for listed in self.walk(selection):
                kept += [each for each, _ in listed]
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
        if _is_everything(name, selection):
            return await self._empty(name, selection, kept)
        directories = 0
        async for rows, used in self._steps(name, selection, None, STEP):
            matches = await self._workers.walk(_matches, name, rows, selection)
            while matches:
                went, emptied = await self._workers.clear(name, partial(take, rows=matches), frees=True)
                gone = [match for match, itself in zip(matches, went, strict=False) if itself]
                self._went(kept, await self._workers.walk(_listed, name, gone, selection, used))
                matches, directories = matches[len(went) :], directories + emptied
        return directories

    async def _empty(self, name: RoomName, selection: Selection, kept: list[Kept]) -> int:
        """All rows at once, then their bodies; those of a caller who is cancelled in between are left to the sweep."""
        since, bodies, listed = time.time(), set[str](), list[Listed]()
        async for rows, used in self._steps(name, selection, None, BATCH):
            listed += await self._workers.walk(_listed, name, rows, selection, used)
            bodies |= _bodies(rows)
        late = await self._workers.begin_anew(name, partial(begin_anew, since=since))
        bodies |= _bodies(late)
        known = {(each.room, each.rowid) for _, each in listed} if late else set()
        late = [row for row in late if (name, row.rowid) not in known]
        self._went(kept, listed + await self._workers.walk(_listed, name, late, selection, self._rows.used(name)))
        directories, names = 0, sorted(bodies)
        for start in range(0, len(names), STEP):
            directories += await self._workers.unlink(name, names[start : start + STEP])
        return directories

    def _went(self, kept: list[Kept], listed: Sequence[Listed]) -> None:
        kept += [each for each, _ in listed]
        size = sum(each.size for each, _ in listed)
        self.removed = Sum(self.removed.count + len(listed), self.removed.bytes + size)

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
                place = rows[-1].place if rows else place
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


def _rooms(selection: Selection, after: Cursor | None) -> list[RoomName]:
    wanted = {"responses": "response" in selection.kinds, "wheels": bool(selection.kinds & FILES)}
    return [name for name in ROOMS if wanted[name] and (after is None or name >= after.room)]


def _is_everything(name: RoomName, selection: Selection) -> bool:
    kinds = FILES if name == "wheels" else RESPONSES
    return kinds <= selection.kinds and selection == Selection(EVERYTHING, kinds=selection.kinds)


def _bodies(rows: Sequence[Seen]) -> set[str]:
    return {row.filename for row in rows if isinstance(row.filename, str)}


def _bytes(text: str) -> bytes:
    return text.encode(errors="replace")


def _place(cursor: Cursor) -> Place:
    # Latin-1 has a letter for each byte, and a cursor may come from a client.
    return cursor.tag.encode("latin-1", "replace"), min(max(cursor.rowid, FIRST), -FIRST - 1)


def _name(name: RoomName, row: Seen) -> Named:
    key = row.key if isinstance(row.key, str) else ""
    filename = row.filename if isinstance(row.filename, str) else ""
    return name_of(name, key, row.tag.decode(errors="replace"), filename)


def _matches(name: RoomName, rows: Sequence[Seen], selection: Selection) -> list[Seen]:
    return [row for row in rows if selection.covers(*_name(name, row))]


def _listed(name: RoomName, rows: Sequence[Seen], selection: Selection, used: Used) -> list[Listed]:
    return [
        (_kept(name, row, named, used), Cursor(name, row.tag.decode("latin-1"), row.rowid))
        for row in rows
        if selection.covers(*(named := _name(name, row)))
    ]


def _kept(name: RoomName, row: Seen, named: Named, used: Used) -> Kept:
    kind, index, project, filename = named
    key = row.key if isinstance(row.key, str) else ""
    url, sha256 = _facts(key, row.head)
    lately, before = used
    return Kept(
        kind,
        "file" if name == "wheels" else key.partition("|")[0],
        index,
        project,
        version_of(filename, project),
        filename or None,
        max(0, row.size),
        sha256 or None,
        without_query(url) or None,
        f"{name}/{row.filename}" if isinstance(row.filename, str) else None,
        _seconds(row.stored),
        max(_seconds(row.used), lately.get(key, 0.0), before.get(key, 0.0)),
    )


def _facts(key: str, head: object) -> tuple[str, str]:
    """URL and sha256, each "" where it is not known."""
    try:
        own, url, sha256 = facts_of(unseal(head if isinstance(head, bytes) else b""))
    except (Foreign, ValueError):
        return "", ""
    return (url, sha256) if own == key else ("", "")


def _seconds(value: object) -> float:
    return value if isinstance(value, float) and 0.0 <= value < _FAR else 0.0
