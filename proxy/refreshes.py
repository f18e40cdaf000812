"""A page looked at again because an operator says so, whatever its freshness."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, assert_never

from proxy.core import decide
from proxy.core.lifetime import serial_of
from proxy.core.messages import Entry, PageTarget, Request, Rules
from proxy.core.patterns import Selection
from proxy.core.urls import is_project, normalise_project, page_key
from proxy.errors import Refused, UpstreamFailed
from proxy.fence import page_named
from proxy.flights import Flights
from proxy.lookups import Fetched, Lookups, PageLimits
from proxy.pages import Pages
from proxy.renditions import BASE_UP

_STAYS = "the last good page stays"


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What the upstream says now of a project's page. ``outcome``: "refreshed" (there was none, or another one),
    "unchanged", "missing" (404: remembered as usual, what was stored stays beside it), "relay" (clients get it, but it
    is not kept). ``status`` is the upstream's own (200, 304, 404); ``files`` counts what the page lists, ``serial`` is
    its X-PyPI-Last-Serial, None where it has none."""

    index: str
    project: str
    outcome: Literal["refreshed", "unchanged", "missing", "relay"]
    because: str
    status: int | None
    files: int
    serial: int | None


class Refreshes:
    """Refreshes pages of all ``indexes``, the first of which is the default.

    All who ask for the same page at one time share one look. They share none that a client began before: its answer
    may be older than what the operator knows of, so that one is let land first. Clients who come later share theirs.
    """

    def __init__(
        self, lookups: Lookups, pages: Pages, *, indexes: Sequence[str], rules: Rules, limits: PageLimits
    ) -> None:
        self._lookups = lookups
        self._pages = pages
        self._indexes = indexes
        self._rules = rules
        self._limits = limits
        self._flights: Flights[Refreshed] = Flights(waiters=limits.waiters)

    async def close(self) -> None:
        """Cancel what is under way."""
        await self._flights.close()

    async def refresh(self, index: str | None, project: str) -> Refreshed:
        """Revalidate the page of a project, spelled in any way, past the caches between us and the index.

        Raises Refused (404: no such index, 400: no project name), ProxyError (503: offline), and UpstreamFailed (502,
        503) when the upstream gives no page that may replace the stored one; 503 also when it does not answer within
        ``first_byte`` seconds: the look then goes on.
        """
        name = self._indexes[0] if index is None else index
        if name not in self._indexes:
            raise Refused("no such index", status=404)
        if not is_project(project):
            raise Refused("not a project name", status=400)
        if self._rules.offline:
            raise decide.refusal(decide.Refuse("offline, no upstream is asked", 503))
        target = PageTarget(name, normalise_project(project), BASE_UP)
        flight, _ = self._flights.join(page_key(name, target.project), lambda: self._refresh(target))
        try:
            async with asyncio.timeout(self._limits.first_byte):
                return await asyncio.shield(flight)
        except TimeoutError:
            raise UpstreamFailed("the upstream does not answer; the look goes on", status=503, retry_after=2) from None

    def forget(self, selection: Selection) -> None:
        """Who wants a page that was removed shares no look that began before."""
        self._flights.part_with(lambda key: selection.covers(*page_named(key)))

    async def _refresh(self, target: PageTarget) -> Refreshed:
        if earlier := self._lookups.under_way(target):
            await asyncio.wait(earlier)
        self._lookups.unlearn(target)
        self._pages.unlearn(target)
        held = await self._lookups.stored_head(page_key(target.index, target.project))
        flight, _ = self._lookups.fetch(target, Request("GET", target, {}), held, anew=True)
        return await self._told(target, held, await asyncio.shield(flight))

    async def _told(self, target: PageTarget, held: Entry | None, fetched: Fetched) -> Refreshed:
        match fetched.after:
            case decide.Keep(negative=True) as after:
                return Refreshed(target.index, target.project, "missing", after.because, fetched.status, 0, None)
            case decide.Keep() | decide.Relay() | decide.Refresh():
                return await self._page(target, held, fetched)
            case decide.Fallback() as after:
                because = f"{after.because}; {_STAYS}"
                raise UpstreamFailed(because, status=503, retry_after=2, upstream_status=fetched.status)
            case decide.Fail() as after:
                because = after.because if held is None else f"{after.because}; {_STAYS}"
                raise UpstreamFailed(
                    because, status=after.status, retry_after=after.retry_after, upstream_status=fetched.status
                )
            case _:
                assert_never(fetched.after)

    async def _page(self, target: PageTarget, held: Entry | None, fetched: Fetched) -> Refreshed:
        entry = fetched.entry
        assert entry is not None
        kept = await self._lookups.stored_head(entry.key)
        outcome: Literal["refreshed", "unchanged", "relay"] = "refreshed"
        because = "the upstream has another page" if held is not None else "nothing was stored"
        if isinstance(fetched.after, decide.Relay):
            outcome, because = "relay", fetched.after.because
        elif kept is None or kept.body != entry.body:
            outcome, because = "relay", "the page could not be kept"
        elif held is not None and held.body == entry.body:
            outcome, because = "unchanged", "the upstream has the same page"
        manifest = await self._pages.manifest(target.index, target.project)
        count, serial = len(manifest or ()), serial_of(entry.head)
        return Refreshed(target.index, target.project, outcome, because, fetched.status, count, serial)
