"""Who looks at what: the looks at origins of mounts that are under way, and what others may have of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from proxy.core.messages import Entry, RawTarget
from proxy.core.variants import Variant, chosen_by
from proxy.errors import UpstreamFailed
from proxy.fill import Fill
from proxy.flights import Waiting

_LANDING = 1.0
"""Seconds that anybody waits for a row; a disk may be slower."""
Key = tuple[RawTarget, Variant]
"""A URL, and the variant of it that a request is likely to get."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What a look found that others may use: ``fill`` names the body that is on its way, None for one that is kept."""

    entry: Entry
    variant: Variant
    fill: str | None


class Look:
    """One look, for whoever waits for it: ``told`` is what it found, a failure, or None for what is nobody else's."""

    def __init__(self, target: RawTarget, began: float, since: int) -> None:
        self.target = target
        self.began = began
        self.since = since
        self.waiters = 0
        self.fill: Fill | None = None
        self.keys: list[Key] = []
        self.told: asyncio.Future[Shared | UpstreamFailed | None] = asyncio.get_running_loop().create_future()

    def tell(self, what: Shared | UpstreamFailed | None) -> None:
        """Say it, once."""
        if not self.told.done():
            self.told.set_result(what)

    @property
    def landing(self) -> asyncio.Task[None] | None:
        """What commits its row, once its body is whole; None before and after."""
        if self.fill is None or self.fill.completed is None or self.fill.settled:
            return None
        return self.fill.task

    @property
    def found(self) -> Shared | None:
        """What it found for others, None before and without that."""
        told = self.told.result() if self.told.done() else None
        return told if isinstance(told, Shared) else None

    @property
    def nobodys(self) -> bool:
        """Whether it found what cannot be shared."""
        return self.told.done() and self.told.result() is None


class Looking:
    """All looks under way, by what is asked for."""

    def __init__(self) -> None:
        self._looks: dict[Key, Look] = {}

    @property
    def waiting(self) -> Waiting:
        """How many looks are under way, and who waits for them."""
        waiters = [look.waiters for look in set(self._looks.values())]
        return Waiting(len(waiters), sum(waiters), max(waiters, default=0))

    def begun(self, key: Key, look: Look) -> None:
        """Others may join it, and no more the one before it."""
        self._looks[key] = look
        look.keys.append(key)

    def found(self, look: Look, shared: Shared) -> None:
        """Tell that, also those who from here on ask for the variant that it turned out to be."""
        look.tell(shared)
        if any(self._looks.get(key) is look for key in look.keys):
            self.begun((look.target, shared.variant), look)

    def over(self, look: Look) -> None:
        """It is of no use to others any more."""
        for key in look.keys:
            if self._looks.get(key) is look:
                del self._looks[key]

    def find(self, key: Key) -> Look | None:
        """The look that is likely to find that."""
        return self._looks.get(key)

    def likely(self, key: Key, request_headers: Mapping[str, str]) -> Variant:
        """The variant of that URL which a request will get: that of the key, unless what is under way for it has found
        by now what chooses."""
        look = self._looks.get(key)
        found = None if look is None else look.found
        return key[1] if found is None else chosen_by(found.variant.names, request_headers)

    def has(self, target: RawTarget) -> bool:
        """Whether any of its variants is being looked at."""
        return any(key[0] == target for key in self._looks)

    async def landed(self, target: RawTarget) -> bool:
        """Wait for the rows of bodies that are whole: whoever got one may be back before its row is there. False when
        there is none to wait for."""
        looks = (look for key, look in self._looks.items() if key[0] == target)
        landing = [task for look in looks if (task := look.landing) is not None]
        if landing:
            await asyncio.wait(landing, timeout=_LANDING)
        return bool(landing)

    def part_with(self, covered: Callable[[RawTarget], bool]) -> None:
        """Let the looks at those URLs go on for who has joined them; who comes from here on shares none of them."""
        for key in [key for key in self._looks if covered(key[0])]:
            del self._looks[key]
