"""The store for one who only looks: what he reads is not noted as used, what he would write is not kept."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.ahead import Ahead, WriteBehind
from proxy.athand import AtHand
from proxy.bodies import Spool
from proxy.core.messages import Entry
from proxy.directory import RoomName
from proxy.errors import StoreFailed
from proxy.room import Row
from proxy.rows import Rows
from proxy.store import Store


class Onlooker(Store):
    """Sees what the other store sees, as long as that is open, and has nothing of its own to close. (A row that is
    found to be damaged is dropped, as by whoever reads it.)"""

    def __init__(self, store: Store) -> None:
        vars(self).update(vars(store))
        # Times of use are collected there, and these are never written.
        self._rows = Rows(self._table, self._workers, self.fence)
        self.at_hand = AtHand(self.directory, self._table, self._rows, self.fence, self.verification)
        # What is on its way there is seen here; what would be written here is seen by nobody.
        self._rows.ahead = store._rows.ahead
        self.behind = WriteBehind(Ahead(self.fence), self.write, self._adoption.spawn)

    async def write(
        self, rows: Sequence[Row], *, drop: Sequence[str] = (), since: int | None = None, together: bool = False
    ) -> None:
        """Nothing."""

    async def adopt(self, room: RoomName, spool: Spool, entry: Entry, name: str, *, since: int | None = None) -> Entry:
        """Nothing is: raises StoreFailed."""
        raise StoreFailed("nothing is kept here")

    async def update(self, room: RoomName, key: str, entry: Entry) -> bool:
        """Nothing."""
        return False

    async def remove(self, room: RoomName, keys: Sequence[str]) -> int:
        """Nothing."""
        return 0

    async def invalidate(self, mount: str, rest: str) -> None:
        """Nothing."""

    async def spool(self) -> Spool:
        """None is made: raises StoreFailed."""
        raise StoreFailed("nothing is kept here")

    async def close(self) -> None:
        """Nothing."""
