"""What the store has in memory and can tell at once: no thread, no database, no look at more than a file's state."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from proxy.core.messages import Entry
from proxy.directory import RoomName
from proxy.fence import Fence
from proxy.memory import Table
from proxy.rows import Rows
from proxy.verification import Verification


class AtHand:
    """Belongs to the event loop; nothing here waits or raises."""

    def __init__(self, directory: Path, table: Table, rows: Rows, fence: Fence, verification: Verification) -> None:
        self._directory = directory
        self._table = table
        self._rows = rows
        self._fence = fence
        self._verification = verification

    def watch(self, told: Callable[[str | None, str | None], None]) -> None:
        """Tell of what changes from now on: see `Table`. Also of removals, from their first moment."""
        self._table.told = told
        self._fence.raising = lambda: told(None, None)

    def changed(self, room: RoomName, key: str) -> None:
        """Somebody knows that the row is not what there is any more, before or beside the database."""
        self._table.told(room, key)

    def entry(self, room: RoomName, key: str) -> Entry | None:
        """The entry of a row that is in memory, decoded: the same object as long as the row is the same."""
        return self._rows.at_hand(room, key)

    def value(self, room: RoomName, key: str) -> bool:
        """Whether that row is in memory."""
        return self._rows.peek(room, key) is not None

    def use(self, room: RoomName, key: str) -> None:
        """What was made of that row is in use, so the row is."""
        self._rows.use(room, key)

    def unchanged(self, entry: Entry) -> Callable[[], bool]:
        """What tells whether the body of that entry is a file in the state in which it was last proven."""
        return self._verification.stands(entry)

    def body(self, entry: Entry) -> bytes | None:
        """A small body, read and hashed; None when it is not what the entry says, or cannot be read."""
        try:
            data = (self._directory / entry.body).read_bytes()
        except OSError:
            return None
        return data if hashlib.sha256(data).hexdigest() == entry.sha256 else None
