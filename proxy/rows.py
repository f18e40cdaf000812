"""Rows as values and entries: from memory when it has them, else from their room; and when they were used."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from functools import partial

from proxy.ahead import Ahead
from proxy.core.messages import Entry
from proxy.directory import ROOMS, RoomName
from proxy.entries import MARK, dump_entry, load_entry
from proxy.errors import StoreFailed
from proxy.fence import Fence
from proxy.memory import FileRow, Item, Table, Value
from proxy.room import STEP, Room
from proxy.workers import Workers

log = logging.getLogger("proxy.store")

# Seconds between two writings of access times; a crash forgets that much of who was used last.
FLUSH_EVERY = 30.0


class Rows:
    """Looks rows up and notes that they were used. Every coroutine raises StoreFailed, nothing else."""

    def __init__(self, table: Table, workers: Workers, fence: Fence) -> None:
        self._table = table
        self.ahead = Ahead(fence, lambda key: table.told("responses", key))
        self._fence = fence
        self._workers = workers
        self._used: dict[RoomName, dict[str, float]] = {name: {} for name in ROOMS}
        self._writing: dict[RoomName, dict[str, float]] = {name: {} for name in ROOMS}

    def peek(self, room: RoomName, key: str) -> Value | None:
        """The row if it is in memory, and is not being removed."""
        if (coming := self.coming(room, key)) is not None:
            return coming.value
        item = self._table.get(room, key)
        if item is None or self._fence.removing(room, key):
            return None
        self._used[room][key] = time.time()
        return item.value

    def at_hand(self, room: RoomName, key: str) -> Entry | None:
        """The entry of a row that is in memory, if it was decoded before."""
        if (coming := self.coming(room, key)) is not None:
            return coming.entry
        item = self._table.get(room, key)
        if item is None or self._fence.removing(room, key):
            return None
        self._used[room][key] = time.time()
        return item.entry

    async def value(self, room: RoomName, key: str) -> Value | None:
        """The row, None when there is none, or none any more in a moment."""
        value = self.peek(room, key)
        if value is None and not self._table.lacks(room, key):
            value = await self._workers.ask(room, partial(Room.get, key=key), writes=False)
            if (newer := self.peek(room, key)) is not None:
                return newer  # or the same: what was brought, or written, while the thread had another look
            if value is not None and self._fence.removing(room, key):
                return None
            if value is not None:
                self._used[room][key] = time.time()
        return value

    def coming(self, room: str, key: str) -> Item | None:
        """What the row is about to be, if it is being written."""
        row = self.ahead.get(key) if room == "responses" else None
        return None if row is None else Item(row.value, row.entry)

    def use(self, room: RoomName, key: str) -> None:
        """Note that the row was used, though nobody looked at it; one that is not there is not made by that."""
        self._used[room][key] = time.time()

    async def entry_in(self, room: RoomName, key: str, value: Value) -> Entry | None:
        """The entry of that very row, decoded once while it is in memory. A row that does not decode is
        dropped, and is None."""
        item = self.coming(room, key) or self._table.get(room, key)
        if item is not None and item.value is value and item.entry is not None:
            return item.entry
        entry = decoded(room, key, value)
        if entry is None:
            log.warning("a row of %s does not decode: dropped", room)
            await self.drop_seen(room, key, value, damaged=True)
        elif item is not None and item.value is value:
            item.entry = entry
        return entry

    def learn(self, room: RoomName, entry: Entry) -> None:
        """What the row of that body decodes to, before anybody asks."""
        item = self._table.get(room, entry.key)
        if item is not None and isinstance(item.value, FileRow) and entry.body == f"{room}/{item.value.filename}":
            item.entry = entry

    async def drop_seen(self, room: RoomName, key: str, seen: Value, *, damaged: bool = False) -> bool:
        """Drop the row if it is still what was seen, and say so; a ``damaged`` one is counted."""
        return await self._workers.ask(room, partial(Room.delete_seen, key=key, seen=seen, damaged=damaged))

    async def tagged(self, room: RoomName, tag: str) -> list[Entry]:
        """All entries of one tag. Rows that do not decode are left out."""
        rows = await self._workers.ask(room, lambda there: list(there.tagged(tag, MARK)), writes=False)
        entries = (decoded(room, key, value) for key, value in rows)
        return [entry for entry in entries if entry is not None]

    def used(self, room: RoomName) -> tuple[Mapping[str, float], Mapping[str, float]]:
        """When rows were used, by key, as far as it may not be in the database yet: what is read there after this
        call is older."""
        return self._used[room], self._writing[room]

    async def flush(self) -> None:
        """Write the access times collected since the last time."""
        for name in ROOMS:
            self._writing[name], self._used[name] = self._used[name], {}
            used = list(self._writing[name].items())
            for start in range(0, len(used), STEP):
                await self._workers.ask(name, partial(Room.touch, times=used[start : start + STEP]))
            self._writing[name] = {}

    async def flush_now_and_then(self) -> None:
        """Write them every FLUSH_EVERY seconds, until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_EVERY)
            with contextlib.suppress(StoreFailed):
                await self.flush()


def dumped(entry: Entry) -> bytes:
    """The entry as bytes. Raises StoreFailed when it cannot be written."""
    try:
        return dump_entry(entry)
    except ValueError as error:
        raise StoreFailed("the entry cannot be kept") from error


def decoded(room: RoomName, key: str, value: Value) -> Entry | None:
    """The entry that a row of that key and that body holds, None when it does not."""
    try:
        entry = load_entry(value if isinstance(value, bytes) else value.head)
    except ValueError:
        return None
    # A row that holds another key's entry, or names another file than its head, was damaged or swapped.
    if entry.key != key:
        return None
    if isinstance(value, FileRow) and entry.body != f"{room}/{value.filename}":
        return None
    return entry
