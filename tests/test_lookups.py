"""One look at a page while rows go: what a 304 speaks of may be gone by the time it comes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from proxy.calls import Site
from proxy.connections import Budget
from proxy.core.decide import Fallback, Keep, Refresh
from proxy.core.messages import Entry, PageTarget, Request, Rules
from proxy.core.patterns import Selection
from proxy.lookups import Fetched, Lookups, PageLimits
from proxy.manifests import Manifests
from proxy.renditions import BASE, BASE_UP
from proxy.store import Store
from proxy.upstream import Upstream as Client
from tests.harness.behaviours import Answer
from tests.harness.exchange import Gate
from tests.harness.packages import wheel
from tests.harness.upstream import Upstream
from tests.harness.waiting import eventually
from tests.keeping import open_store

SIX = PageTarget("test", "six", BASE_UP)
ASK = Request("GET", SIX, {})
LIMITS = PageLimits(page_max=10**6, list_max=10**6, first_byte=10.0, waiters=10)


@dataclass(frozen=True, slots=True)
class Desk:
    """A store, looks over it, and an upstream that has a page of six."""

    store: Store
    lookups: Lookups
    upstream: Upstream

    async def look(self, entry: Entry | None = None) -> Fetched:
        """What a look leads to, for whoever knows of that entry."""
        return await asyncio.shield(self.lookups.fetch(SIX, ASK, entry)[0])

    async def kept(self) -> Entry:
        """The page, looked at and kept."""
        entry = (await self.look()).entry
        assert entry is not None
        await self.store.behind.settled()
        return entry

    def conditions(self) -> list[bool]:
        """Whether each request so far had one."""
        return ["if-none-match" in each.headers for each in self.upstream.asked("/simple/six/")]


@pytest.fixture
async def desk(tmp_path: Path, upstream: Upstream) -> AsyncIterator[Desk]:
    """All of it, closed in the order the proxy closes it."""
    upstream.index.add(wheel("six"))
    sites, clock = {"test": upstream.url}, time.time
    async with AsyncExitStack() as rooms:
        store = await open_store(tmp_path / "cache")
        rooms.push_async_callback(store.close)
        budget = Budget(total=20.0, idle=20.0, retries=0)
        client = Client([Site("test", upstream.url)], pages=budget, files=budget)
        rooms.push_async_callback(client.close)
        lookups = Lookups(sites, store, client, Manifests(store), rules=Rules(), limits=LIMITS, clock=clock)
        rooms.push_async_callback(lookups.close)
        yield Desk(store, lookups, upstream)


async def test_a_page_that_is_kept_whole_is_asked_for_with_a_condition(desk: Desk) -> None:
    """And proves unchanged; its base and its listing come with that."""
    entry = await desk.kept()
    fetched = await desk.look(entry)
    assert isinstance(fetched.after, Refresh)
    assert fetched.base == await desk.store.read(BASE.key(entry))
    assert list(fetched.manifest or {}) == [desk.upstream.location(wheel("six"))]
    assert desk.conditions() == [False, True]


@pytest.mark.parametrize("key", [BASE.key, lambda _: "listing|test|six"], ids=["base", "listing"])
async def test_a_page_of_which_a_part_is_gone_is_asked_for_whole(desk: Desk, key: Callable[[Entry], str]) -> None:
    """Unchanged would be no use: nobody could be shown it, or no file of it be found. It is kept again."""
    entry = await desk.kept()
    part = key(entry)
    value = await desk.store.read(part)
    await desk.store.drop([part])
    desk.lookups.forget(Selection())  # or memory would still have the listing
    assert isinstance((await desk.look(entry)).after, Keep)
    assert desk.conditions() == [False, False]
    await desk.store.behind.settled()
    assert await desk.store.read(part) == value


async def test_who_joins_a_look_after_the_rows_went_gets_the_page(desk: Desk) -> None:
    """The look asks with a condition, for it began when there was a page; who comes while that is being removed shares
    it and has no other source for the bytes. No head comes back that nothing stands behind."""
    entry, gate = await desk.kept(), Gate()
    desk.upstream.script("/simple/six/", Answer(held=gate))
    first = asyncio.ensure_future(desk.look(entry))
    assert await asyncio.to_thread(gate.reached.wait, 20)
    await desk.store.inventory.remove(Selection())
    assert await desk.lookups.known(SIX) is None
    second = asyncio.ensure_future(desk.look())
    await asyncio.sleep(0)
    gate.open()
    fetched = await second
    assert fetched == await first
    assert isinstance(fetched.after, Refresh)
    assert (fetched.base, fetched.manifest) != (None, None)
    assert desk.conditions() == [False, True]
    assert desk.store.stats().responses.count == 0


async def test_who_asks_after_a_removal_joins_no_look_that_began_before(desk: Desk) -> None:
    """The old look goes on for who waits for it, and for nobody else; the proxy's end ends it, too."""
    gate = Gate()
    desk.upstream.script("/simple/six/", Answer(held=gate), Answer())
    first = asyncio.ensure_future(desk.look())
    assert await asyncio.to_thread(gate.reached.wait, 20)
    await desk.store.inventory.remove(Selection())
    desk.lookups.forget(Selection(project="seven"))
    assert desk.lookups.fetch(SIX, ASK, None)[1]
    desk.lookups.forget(Selection(project="six"))
    assert isinstance((await desk.look()).after, Keep)
    assert not first.done()
    await desk.lookups.close()
    with pytest.raises(asyncio.CancelledError):
        await first
    gate.open()


async def test_a_page_that_was_missing_for_a_while_does_not_come_back_older(desk: Desk) -> None:
    """Who asks while a 404 is remembered knows of that alone; what comes is measured against the last good page."""
    kept = await desk.kept()
    desk.upstream.script("/simple/six/", Answer(status=404))
    assert isinstance((await desk.look(kept)).after, Keep)
    missing = await desk.lookups.known(SIX)
    assert missing is not None
    assert missing.head.status == 404
    desk.upstream.script("/simple/six/", serial(desk, -1), serial(desk, 1))
    older = await desk.look(missing)
    assert isinstance(older.after, Fallback)
    assert older.entry == kept
    assert isinstance((await desk.look(missing)).after, Keep)


async def test_of_two_looks_at_one_time_the_older_page_does_not_come_last(desk: Desk) -> None:
    """A look for a whole page goes on beside another one, and either may be answered first."""
    kept, gate = await desk.kept(), Gate()
    desk.upstream.script("/simple/six/", serial(desk, 1, held=gate), serial(desk, 2))
    slow = asyncio.ensure_future(desk.look(kept))
    assert await asyncio.to_thread(gate.reached.wait, 20)
    newer = await asyncio.shield(desk.lookups.fetch(SIX, ASK, kept, whole=True)[0])
    gate.open()
    late = await slow
    assert isinstance(newer.after, Keep)
    assert isinstance(late.after, Fallback)
    assert late.entry == newer.entry == await desk.lookups.known(SIX)


async def test_who_knows_of_an_older_page_is_shown_the_one_that_is_kept_by_now(desk: Desk) -> None:
    """Another's look ended between his two, into the store and at the upstream; and then the upstream fails."""
    old = await desk.kept()
    desk.upstream.script("/simple/six/", serial(desk, 1), Answer(status=500))
    newer = await desk.look(old)
    late = await desk.look(old)
    assert isinstance(late.after, Fallback)
    assert late.entry == newer.entry != old


async def test_unchanged_is_said_of_the_page_that_was_asked_about_alone(desk: Desk) -> None:
    """A newer one came while the upstream took its time to say so."""
    old, gate = await desk.kept(), Gate()
    desk.upstream.script("/simple/six/", Answer(held=gate), serial(desk, 1))
    slow = asyncio.ensure_future(desk.look(old))
    assert await asyncio.to_thread(gate.reached.wait, 20)
    newer = await asyncio.shield(desk.lookups.fetch(SIX, ASK, old, whole=True)[0])
    gate.open()
    late = await slow
    assert isinstance(late.after, Refresh)
    assert late.entry == newer.entry == await desk.lookups.known(SIX)
    assert (late.base, late.manifest) == (None, None)


async def test_a_page_on_its_way_into_the_store_is_not_overtaken(desk: Desk) -> None:
    """The older look compares with what is stored once that is the newer page: not while it is being written."""
    old, gate, store_waits = await desk.kept(), Gate(), threading.Event()
    desk.upstream.script("/simple/six/", Answer(held=gate), serial(desk, 1))
    slow = asyncio.ensure_future(desk.look(old))
    assert await asyncio.to_thread(gate.reached.wait, 20)
    held_up = asyncio.ensure_future(desk.store._workers.ask("responses", lambda _: store_waits.wait(20)))
    newer = asyncio.ensure_future(asyncio.shield(desk.lookups.fetch(SIX, ASK, old, whole=True)[0]))
    await asyncio.to_thread(eventually, lambda: desk.conditions() == [False, True, False], "both were asked for")
    gate.open()
    await asyncio.to_thread(time.sleep, 0.5)  # both answers are here, and wait for the store
    store_waits.set()
    await asyncio.gather(slow, newer, held_up)
    kept = await desk.lookups.known(SIX)
    assert kept is not None
    assert kept.body == (await newer).entry.body  # type: ignore[union-attr]  # it found one
    assert await desk.store.read(BASE.key(kept)) is not None


def serial(desk: Desk, more: int, **how: Any) -> Answer:
    """Another page, whose serial is so much higher than that of the first one."""
    number = desk.upstream.index.serial + more
    body = b'{"meta": {"api-version": "1.1"}, "name": "six", "files": [], "number": %d}' % number
    fields = {"X-PyPI-Last-Serial": str(number), "ETag": f'"{number}"'}
    return Answer(status=200, body=body, headers=fields, without=("Content-Encoding",), **how)
