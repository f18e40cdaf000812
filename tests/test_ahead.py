"""A page is answered before it is stored: what is on its way to the disk is found, and nothing older than it."""

from __future__ import annotations

import asyncio
import errno
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy.ahead import MOST
from proxy.calls import Site
from proxy.connections import Budget
from proxy.core.decide import Keep
from proxy.core.messages import Entry, PageTarget, Request, Rules
from proxy.core.patterns import Selection
from proxy.core.urls import listing_key, page_key
from proxy.errors import Forgotten, StoreFailed
from proxy.lookups import Fetched, Lookups, PageLimits
from proxy.manifests import Manifests
from proxy.renditions import BASE, BASE_UP
from proxy.room import Room
from proxy.store import Row, Store
from proxy.upstream import Upstream as Client
from tests.harness.packages import wheel
from tests.harness.upstream import Upstream
from tests.keeping import TAG, open_store

SIX = PageTarget("test", "six", BASE_UP)
ASK = Request("GET", SIX, {})
LIMITS = PageLimits(page_max=10**7, list_max=10**6, first_byte=10.0, waiters=10)
KEY, LISTING = page_key("test", "six"), listing_key("test", "six")


@contextmanager
def busy(store: Store) -> Iterator[None]:
    """Inside, the store's thread does something else."""
    begun, over = threading.Event(), threading.Event()

    def job(_: Room) -> None:
        begun.set()
        assert over.wait(20)

    task = asyncio.ensure_future(store._workers.ask("responses", job))
    try:
        yield
    finally:
        over.set()
        task.add_done_callback(lambda done: done.exception())


@dataclass(frozen=True, slots=True)
class House:
    """A store, looks over it, and an upstream that has a page of six."""

    store: Store
    lookups: Lookups
    manifests: Manifests
    upstream: Upstream
    directory: Path

    async def look(self, entry: Entry | None = None) -> Fetched:
        """What a look leads to, for whoever knows of that entry."""
        return await asyncio.wait_for(asyncio.shield(self.lookups.fetch(SIX, ASK, entry, whole=True)[0]), 5)

    async def settled(self) -> None:
        """Return when nothing is being written."""
        await self.store._adoption.settled()


@pytest.fixture
async def house(tmp_path: Path, upstream: Upstream) -> AsyncIterator[House]:
    """All of it, closed in the order the proxy closes it."""
    upstream.index.add(wheel("six"))
    async with AsyncExitStack() as rooms:
        store = await open_store(tmp_path / "cache")
        rooms.push_async_callback(store.close)
        budget = Budget(total=20.0, idle=20.0, retries=0)
        client = Client([Site("test", upstream.url)], pages=budget, files=budget)
        rooms.push_async_callback(client.close)
        manifests = Manifests(store)
        lookups = Lookups(
            {"test": upstream.url}, store, client, manifests, rules=Rules(), limits=LIMITS, clock=time.time
        )
        rooms.push_async_callback(lookups.close)
        yield House(store, lookups, manifests, upstream, tmp_path / "cache")


def many(upstream: Upstream) -> int:
    """So many files that the listing is not made on the spot; how many there are."""
    upstream.index.add(*(wheel("six", f"{major}.{minor}") for major in range(2, 12) for minor in range(40)))
    return 401


async def test_a_page_is_there_before_it_is_stored(house: House) -> None:
    """Whoever asks in between finds it and all its parts; the disk has it later."""
    with busy(house.store):
        fetched = await house.look()
        assert isinstance(fetched.after, Keep)
        assert fetched.entry is not None
        known = await asyncio.wait_for(house.lookups.known(SIX), 5)
        assert known == fetched.entry
        assert await house.store.read(BASE.key(fetched.entry)) == fetched.base
        assert house.store.stats().responses.count == 0
    await house.settled()
    assert house.store.stats().responses.count == 3
    assert await house.lookups.known(SIX) == fetched.entry


async def test_who_asked_the_disk_before_finds_it_too(house: House) -> None:
    """The look has ended by the time the thread says that there is nothing: nobody looks again."""
    with busy(house.store):
        asking = asyncio.ensure_future(house.lookups.known(SIX))
        await asyncio.sleep(0.05)
        fetched = await house.look()
        assert not asking.done()
    assert fetched.entry is not None
    assert await asking == fetched.entry


async def test_a_long_listing_is_made_behind(house: House) -> None:
    """Who asks for it waits for that, and gets that of the page that was just seen."""
    count = many(house.upstream)
    before = await house.look()
    await house.settled()
    house.upstream.index.add(wheel("six", "99"))
    with busy(house.store):
        fetched = await house.look(before.entry)
        assert isinstance(fetched.manifest, asyncio.Task)
        manifest = await asyncio.wait_for(house.manifests.of("test", "six"), 5)
        assert manifest is not None
        assert len(manifest) == count + 1
    await house.settled()
    assert await house.store.read(LISTING) is not None


async def test_a_newer_page_is_written_after_an_older_one(house: House) -> None:
    """The next look begins when the last one's page is written, however long that takes."""
    with busy(house.store):
        first = await house.look()
        house.upstream.index.add(wheel("six", "2"))
        second = asyncio.ensure_future(house.look(first.entry))
        await asyncio.sleep(0.2)
        assert house.upstream.count("GET", "/simple/six/") == 1
    entry = (await second).entry
    await house.settled()
    assert entry is not None
    assert first.entry is not None
    assert entry.body != first.entry.body
    assert await house.store.entry("responses", KEY) == entry
    assert await house.store.read(BASE.key(first.entry)) is None


async def test_what_is_removed_on_its_way_is_not_found(house: House) -> None:
    """From the first moment of the removal on, and it is not committed."""
    with busy(house.store):
        fetched = await house.look()
        assert fetched.entry is not None
        removal = asyncio.ensure_future(house.store.inventory.remove(Selection()))
        await asyncio.sleep(0.05)
        assert house.store.peek(KEY) is None
        assert house.store.peek(BASE.key(fetched.entry)) is None
    await removal
    await house.settled()
    assert await house.lookups.known(SIX) is None
    assert house.store.stats().responses.count == 0


async def test_a_failing_store_costs_only_the_keeping(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is answered, and found no more when that is known."""

    async def failing(*_: object, **__: object) -> None:
        await asyncio.sleep(0.05)
        raise StoreFailed("the disk is full")

    monkeypatch.setattr(house.store.behind, "_write", failing)
    fetched = await house.look()
    assert fetched.entry is not None
    assert await house.lookups.known(SIX) == fetched.entry
    await house.settled()
    assert await house.lookups.known(SIX) is None
    monkeypatch.undo()
    assert (await house.look()).entry is not None
    await house.settled()
    assert await house.lookups.known(SIX) is not None


async def test_no_more_waits_than_may(house: House) -> None:
    """Who brings more than is allowed to lie in memory waits for the disk."""
    value = bytes(MOST // 4)
    with busy(house.store):
        for number in range(4):
            await asyncio.wait_for(house.store.behind.write([Row(f"key{number}", value, TAG)], (), None), 5)
        last = asyncio.ensure_future(house.store.behind.write([Row("last", value, TAG)], (), None))
        await asyncio.sleep(0.05)
        assert not last.done()
        assert await house.store.read("last") == value
    assert (await asyncio.wait_for(last, 20)).done()
    await house.settled()


async def test_what_is_on_its_way_is_written_before_the_store_closes(house: House) -> None:
    """An orderly end loses nothing."""
    fetched = await house.look()
    await house.lookups.close()
    await house.store.close()
    again = await open_store(house.directory)
    assert await again.entry("responses", KEY) == fetched.entry
    await again.close()


async def test_what_is_told_of_a_row_once(house: House) -> None:
    """It is another when it is put, and no other when it is written; what it decodes to is known all the while."""
    told: list[str | None] = []
    house.store.at_hand.watch(lambda room, key: told.append(key))
    with busy(house.store):
        fetched = await house.look()
        assert KEY in told
        assert house.store.at_hand.entry("responses", KEY) is fetched.entry
        await asyncio.sleep(0.05)  # its listing is put meanwhile
        told.clear()
    await house.settled()
    assert told == []
    assert house.store.at_hand.entry("responses", KEY) is fetched.entry


async def test_an_older_row_that_is_written_meanwhile(house: House) -> None:
    """The table has what the database has, and says that this is not what is known."""
    told: list[str | None] = []
    entry = (await house.look()).entry
    await house.settled()
    house.store.at_hand.watch(lambda room, key: told.append(key))
    with busy(house.store):
        other = asyncio.ensure_future(house.store.write([Row(KEY, b"another", TAG)]))
        await asyncio.sleep(0.05)
        house.store.behind._ahead.put([row := Row(KEY, b"the last", TAG)], None)
        told.clear()
    await other
    assert KEY in told
    assert house.store.peek(KEY) == b"the last"
    assert house.store.at_hand.entry("responses", KEY) is None
    house.store.behind._ahead.written([row])
    assert house.store.peek(KEY) == b"another"
    assert entry is not None


async def test_what_is_not_there_is_looked_for_once(house: House) -> None:
    """Until it is written; the disk is not asked again."""
    assert await house.store.read("missing") is None
    with busy(house.store):
        assert await asyncio.wait_for(house.store.read("missing"), 5) is None
    await house.store.write([Row("missing", b"here", TAG)])
    assert await house.store.read("missing") == b"here"
    await house.store.drop(["missing"])
    assert await house.store.read("missing") is None


async def test_rows_that_come_together_are_written_together(house: House) -> None:
    """In one transaction; what was removed meanwhile is refused alone."""
    commits = []

    def counted(room: Room) -> None:
        room._cache._con.set_trace_callback(lambda said: commits.append(said) if said == "COMMIT" else None)

    await house.store._workers.ask("responses", counted, writes=False)
    since = house.store.mark()
    await house.store.inventory.remove(Selection("seven"))
    commits.clear()
    other = "default/seven"
    done = await asyncio.gather(
        house.store.write([Row("page|default|six", b"six", TAG)], together=True),
        house.store.write([Row("page|default|seven", b"seven", other)], since=since, together=True),
        house.store.write([Row("page|default|eight", b"eight", "default/eight")], since=since, together=True),
        return_exceptions=True,
    )
    assert [type(each) for each in done] == [type(None), Forgotten, type(None)]
    assert commits == ["COMMIT"]
    found = [await house.store.read(f"page|default|{name}") for name in ("six", "seven", "eight")]
    assert found == [b"six", None, b"eight"]


async def test_rows_that_fail_together(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them do, and the next ones do not; who no longer waits is no matter."""

    def failing(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "a fault of the test")

    monkeypatch.setattr(Room, "write", failing)
    left = asyncio.ensure_future(house.store.write([Row("left", b"left", TAG)], together=True))
    await asyncio.sleep(0)
    left.cancel()
    done = await asyncio.gather(
        *(house.store.write([Row(name, b"value", TAG)], together=True) for name in ("one", "two")),
        return_exceptions=True,
    )
    assert [type(each) for each in done] == [StoreFailed, StoreFailed]
    monkeypatch.undo()
    await house.store.write([Row("one", b"value", TAG)], together=True)
    assert await house.store.read("one") == b"value"
