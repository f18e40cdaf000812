"""The values that warm hits are answered from: bounded by bytes, least recently used out first.

It lives on the event loop's thread and is changed only by `apply`, which the store thread posts after each
commit. Callbacks posted by one thread run in the order they were posted, so the table goes through the states
of the database in their order and an older value can never come after a newer one:

    store thread:  get(k) -> 1    post k=1    set(k, 2), commit    post k=2
    event loop:                          k=1                           k=2, then write() returns

A reader that filled the table itself, once its future had resolved, could be overtaken by the write.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from proxy.core.messages import Entry

# What one item costs beside its bytes: the key, the dictionary's slot, and the decoded entry.
OVERHEAD = 1024


@dataclass(frozen=True, slots=True)
class FileRow:
    """A row whose body is a file: ``filename`` below its room, ``head`` a dumped entry. ``size`` in bytes is
    what the row is written with; the head says it too, so it is neither read back nor compared."""

    filename: str
    size: int = field(compare=False)
    head: bytes


Value = bytes | FileRow


class Absent:
    """Says that there is no such row, and was none."""


ABSENT = Absent()
Change = tuple[str, Value | Absent | None]
_ABSENT_MOST = 1024


@dataclass(slots=True)
class Item:
    """A row's value, and the entry decoded from it once somebody asked."""

    value: Value
    entry: Entry | None = None


class Table:
    """Values by (room, key). ``limit`` is in bytes; one item takes at most an eighth of it. ``told`` is called with the
    room and the key of each row that is another from now on, with None for the key when all of a room are, and for both
    when it may be any. ``foretold`` says what a row was known to become, with its entry if that is known: when it does,
    it is no other."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: OrderedDict[tuple[str, str], Item] = OrderedDict()
        self._absent: OrderedDict[tuple[str, str], None] = OrderedDict()
        self.bytes = 0
        self.told: Callable[[str | None, str | None], None] = lambda room, key: None
        self.foretold: Callable[[str, str], Item | None] = lambda room, key: None

    def __len__(self) -> int:
        return len(self._items)

    def get(self, room: str, key: str) -> Item | None:
        """The item, which is now the most recently used one; None when the table does not have it."""
        item = self._items.get((room, key))
        if item is not None:
            self._items.move_to_end((room, key))
        return item

    def lacks(self, room: str, key: str) -> bool:
        """Whether it was looked for lately and is known not to be there."""
        return (room, key) in self._absent

    def apply(self, room: str, changes: Iterable[Change]) -> None:
        """Take over what one job on the store thread saw or did; None means the key is gone or in doubt."""
        for key, value in changes:
            old = self._items.get((room, key))
            self._absent.pop((room, key), None)
            if isinstance(value, Absent):
                self._absent[room, key] = value = None
                if old is None:
                    continue
            if old is not None and value is not None and old.value == value:
                continue
            coming = self.foretold(room, key)
            if coming is None or coming.value != value:
                self.told(room, key)
                coming = None
            self._forget((room, key))
            if value is not None and _cost(value) <= self._limit // 8:
                self._items[room, key] = coming or Item(value)
                self.bytes += _cost(value)
        while self.bytes > self._limit:
            self._forget(next(iter(self._items)))
        while len(self._absent) > _ABSENT_MOST:
            self._absent.popitem(last=False)

    def clear(self, room: str) -> None:
        """Forget everything of one room."""
        self.told(room, None)
        self._absent.clear()
        for place in [place for place in self._items if place[0] == room]:
            self._forget(place)

    def _forget(self, place: tuple[str, str]) -> None:
        item = self._items.pop(place, None)
        if item is not None:
            self.bytes -= _cost(item.value)


def _cost(value: Value) -> int:
    return OVERHEAD + len(value if isinstance(value, bytes) else value.head)
