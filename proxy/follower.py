"""One reader of a body on its way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.answer import Piece

if TYPE_CHECKING:
    from proxy.fill import Fill


class Follower:
    """One reader of a fill. It counts until it is closed, once, however often it is said."""

    __slots__ = ("_follows", "fill", "offset")

    def __init__(self, fill: Fill) -> None:
        self.fill = fill
        self._follows = True
        self.offset = fill.base
        fill.followers += 1
        fill.follow(self)

    async def beyond(self, offset: int) -> Piece | None:
        """The bytes from ``offset`` of the whole body on, as far as they may be shown."""
        if offset > self.offset:
            self.offset = offset
            self.fill.follow(self)
        return await self.fill.beyond(offset)

    def close(self) -> None:
        """Follow no more; the fill itself goes on."""
        if self._follows:
            self._follows = False
            self.fill.leave(self)
