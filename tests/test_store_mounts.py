"""What mounts answered, in a room of its own: its limit, its rows, and what an unsafe method makes of them."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from proxy import fence as fence_module
from proxy.core.messages import Entry, Head, RawTarget, Request
from proxy.core.mounted import body_name, raw_key, tag_of_mount, variants_key
from proxy.core.patterns import ALL, Selection
from proxy.errors import Forgotten, StoreFailed
from proxy.fence import Fence, name_of
from proxy.room import Room
from proxy.shelf import Shelf
from proxy.store import Row, Store
from tests.conftest import missing
from tests.harness.server import ROOT
from tests.harness.smalldisk import SmallDisk
from tests.keeping import body_of, entry_of, files_in, keep, open_store


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """A store with roomy limits."""
    opened = await open_store(tmp_path / "cache")
    yield opened
    await opened.close()


async def raw(
    store: Store, rest: str, body: bytes = b"body", *, mount: str = "files", variant: str = "", since: int | None = None
) -> Entry:
    """Keep what a mount answered."""
    key, tag = raw_key(mount, rest, variant), tag_of_mount(mount)
    return await keep(store, key, body, room="mounts", tag=tag, name=body_name(rest), since=since)


async def kept(store: Store, rest: str, *, mount: str = "files", variant: str = "") -> bytes | None:
    """The body, as a request finds it."""
    return await body_of(store, raw_key(mount, rest, variant), "mounts")


# --- the room


@pytest.mark.asyncio
@pytest.mark.parametrize("again", [False, True], ids=["asked for again", "never asked for again"])
async def test_a_body_that_no_list_names(tmp_path: Path, again: bool) -> None:
    """A kill between the two leaves one. It is not served; it is counted, it goes when room is needed, and the next
    answer to the same request takes its place."""
    store = await open_store(tmp_path / "cache")
    target = RawTarget("files", "a/b.bin")
    one = await raw(store, target.rest, b"one")
    await store.close()
    store = await open_store(tmp_path / "cache")
    shelf = Shelf(store)
    found = await shelf.find(Request("GET", target, {}), target)
    assert found.entry is None
    seen, _ = await store.inventory.page(Selection(kinds=ALL), None, 10)
    assert [(each.what, each.path) for each in seen] == [("raw", one.body)]
    assert store.stats().mounts.count == 1
    if again:
        spool = await store.spool()
        os.write(spool.fd, b"second")
        entry = replace(entry_of(one.key, b"second", tag=one.tag), head=Head(200, (), 5.0, 6.0))
        await shelf.keep(target, found.variant, entry, spool, store.mark(), 7.0)
        await store.discard(spool)
        assert (await shelf.find(Request("GET", target, {}), target)).entry is not None
        assert await kept(store, target.rest) == b"second"
    else:
        assert await store.remove("mounts", [one.key]) > 0
    assert len(files_in(store.directory / "mounts")) == store.stats().mounts.count == int(again)
    await store.close()


@pytest.mark.asyncio
async def test_empty_bodies_take_room_too(tmp_path: Path) -> None:
    """A client can make up URLs without end, and an origin may answer each with nothing."""
    store = await open_store(tmp_path / "cache", mounts_max_size=50 * 4096)
    for number in range(80):
        await raw(store, f"empty?{number}", b"")
    assert 40 <= store.stats().mounts.count <= 50
    assert len(files_in(tmp_path / "cache" / "mounts")) <= 50
    assert await kept(store, "empty?79") == b""
    assert await kept(store, "empty?0") is None
    await store.close()


@pytest.mark.asyncio
async def test_a_directory_of_an_older_version_gets_the_room(tmp_path: Path) -> None:
    """Two rooms become three, and what is in them stays."""
    store = await open_store(tmp_path / "cache")
    await keep(store, "six", b"wheel")
    await store.write([Row("page|main|six", b"page", "main/six")])
    await store.close()
    shutil.rmtree(tmp_path / "cache/mounts")
    store = await open_store(tmp_path / "cache")
    assert await body_of(store, "six") == b"wheel"
    assert await store.read("page|main|six") == b"page"
    await raw(store, "a")
    await store.close()
    store = await open_store(tmp_path / "cache")
    assert await kept(store, "a") == b"body"
    await store.close()


@pytest.mark.asyncio
async def test_rooms_do_not_eat_each_other_s_limits(tmp_path: Path) -> None:
    """What is over its own limit goes; nothing of another room does."""
    store = await open_store(tmp_path / "cache", max_size=1000, mounts_max_size=1000, responses_max_size=1000)
    await keep(store, "six", b"w" * 250)
    await raw(store, "first", b"m" * 250)
    await store.write([Row("page|main|six", b"p" * 250, "main/six")])
    for number in range(8):
        await raw(store, f"more{number}", b"m" * 250)
    assert await kept(store, "first") is None
    assert await body_of(store, "six") == b"w" * 250
    assert store.stats().mounts.bytes == sum(files_in(tmp_path / "cache/mounts").values()) <= 1000
    assert store.stats().mounts.evicted.count == 9 - store.stats().mounts.count
    mounts = store.stats().mounts
    for number in range(8):
        await keep(store, f"more{number}", b"w" * 250)
    assert store.stats().wheels.evicted.count > 0
    assert store.stats().mounts == mounts
    assert await store.read("page|main|six") == b"p" * 250
    assert store.has_room(250, "mounts")
    assert not store.has_room(251, "mounts")
    with pytest.raises(StoreFailed):
        await raw(store, "large", b"m" * 251)
    await store.close()


SMALL = """
import asyncio, sys
from pathlib import Path
from tests.keeping import body_of, files_in, keep, open_store
from tests.test_store_mounts import raw
async def main():
    where = Path(sys.argv[1]) / "cache"
    store = await open_store(where, min_free=10**9)
    for number in range(10):
        await keep(store, f"wheel{number}", b"w" * 300_000)
    for number in range(60):
        assert store.has_room(300_000, "mounts")
        await raw(store, f"mount{number}", b"m" * 300_000)
    stats = store.stats()
    # The larger gives way, so neither pushes the other out.
    assert stats.mounts.evicted.count > 40 and stats.mounts.count > 3
    assert stats.wheels.count > 3, stats.wheels
    for number in range(60):
        assert store.has_room(300_000)
        await keep(store, f"other{number}", b"w" * 300_000)
    assert store.stats().mounts.count > 3
    assert store.degraded is None
    for room in ("wheels", "mounts"):
        assert getattr(store.stats(), room).bytes == sum(files_in(where / room).values())
    await store.close()
asyncio.run(main())
print("ok")
"""


def test_on_a_small_disk_the_larger_room_gives_way(tmp_path: Path) -> None:
    """Free space is owed by wheels and mounts together: each finds room, and keeps its latest."""
    if what := SmallDisk.missing():
        missing(what)
    with SmallDisk(tmp_path / "disk", 8 * 2**20) as disk:
        command = [*disk.prefix(ROOT), sys.executable, "-c", SMALL, str(disk.path)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=60)
    assert done.stdout == "ok\n"


@pytest.mark.asyncio
async def test_a_body_may_have_no_byte(store: Store, tmp_path: Path) -> None:
    """An empty file is an answer as well; also after a restart and its sweep."""
    await raw(store, "empty", b"")
    assert await kept(store, "empty") == b""
    await store.close()
    again = await open_store(tmp_path / "cache")
    assert await kept(again, "empty") == b""
    assert (again.stats().mounts.count, again.stats().mounts.bytes) == (1, 0)
    await again.close()


@pytest.mark.asyncio
async def test_a_head_keeps_every_field(store: Store, tmp_path: Path) -> None:
    """In their order and as often as they came; which of them are kept is not the store's to say."""
    fields = (("Set-Cookie", "a=1"), ("X-What", "caf\udce9"), ("Set-Cookie", "b=2"), ("Link", "</a>"), ("x-empty", ""))
    entry = replace(entry_of(raw_key("files", "a", ""), b"x", tag="files/"), head=Head(404, fields, 1.0, 2.0))
    spool = await store.spool()
    os.write(spool.fd, b"x")
    await store.adopt("mounts", spool, entry, "a")
    await store.discard(spool)
    await store.close()
    again = await open_store(tmp_path / "cache")
    found = await again.entry("mounts", entry.key)
    assert found is not None
    assert found.head == entry.head
    await again.close()


# --- what an unsafe method changed (RFC 9111 §4.4)


@pytest.mark.asyncio
async def test_a_url_goes_with_all_its_variants(store: Store, tmp_path: Path) -> None:
    """From memory and disk, and what lists them; nothing of another URL, however alike, or of another mount."""
    others = ["a/", "a/b", "ab", "a?0f", "A", ""]
    for variant in ("", "0f", "1f"):
        await raw(store, "a", variant=variant)
    for rest in others:
        await raw(store, rest)
        await store.write([Row(variants_key("files", rest), b"list", "files/")])
    await raw(store, "a", mount="other")
    await store.write([Row(variants_key("files", "a"), b"list", "files/")])
    await store.invalidate("files", "a")
    for variant in ("", "0f", "1f"):
        assert await store.entry("mounts", raw_key("files", "a", variant)) is None
    assert await store.read(variants_key("files", "a")) is None
    for rest in others:
        assert await kept(store, rest) == b"body"
        assert await store.read(variants_key("files", rest)) == b"list"
    assert await kept(store, "a", mount="other") == b"body"
    assert len(files_in(tmp_path / "cache/mounts")) == len(others) + 1 == store.stats().mounts.count
    await store.invalidate("files", "nothing")


@pytest.mark.asyncio
async def test_what_was_asked_for_before_is_not_kept(store: Store, tmp_path: Path) -> None:
    """A body that began before the change is of before; one that began after it, or is of another URL, is kept."""
    before = store.mark()
    await store.invalidate("files", "a")
    with pytest.raises(Forgotten):
        await raw(store, "a", since=before)
    with pytest.raises(Forgotten):
        await raw(store, "a", variant="0f", since=before)
    assert files_in(tmp_path / "cache/mounts") == files_in(tmp_path / "cache/incoming") == {}
    await raw(store, "b", since=before)
    await raw(store, "a", b"other", mount="other", since=before)
    await keep(store, "six", b"wheel", since=before)
    await raw(store, "a", b"new", since=store.mark())
    assert await kept(store, "a") == b"new"
    await store.invalidate("files", "a")
    assert await kept(store, "a") is None


@pytest.mark.asyncio
async def test_a_commit_that_waits_while_the_url_is_invalidated_is_refused(store: Store, tmp_path: Path) -> None:
    """Its body has its place, its job has been sent: it is the moment of the commit that counts."""
    since = store.mark()
    keeping: list[asyncio.Task[Any]] = []
    loop = asyncio.get_running_loop()

    def hold(_: Room) -> None:
        # On the store's thread: all jobs that are sent now wait for this one.
        loop.call_soon_threadsafe(lambda: keeping.append(asyncio.create_task(raw(store, "a", since=since))))
        asyncio.run_coroutine_threadsafe(placed(tmp_path / "cache/mounts"), loop).result(20)
        loop.call_soon_threadsafe(lambda: keeping.append(asyncio.create_task(store.invalidate("files", "a"))))
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(20)

    await store._workers.ask("wheels", hold)
    adoption, invalidation = keeping
    await invalidation
    with pytest.raises(Forgotten):
        await adoption
    assert files_in(tmp_path / "cache/mounts") == {}
    assert store.stats().mounts.count == 0


async def placed(room: Path) -> None:
    """Returns once a body has its name there."""
    for _ in range(2000):
        if files_in(room):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("not within 20 s")


@pytest.mark.asyncio
async def test_a_new_head_brings_nothing_back(store: Store) -> None:
    """A 304 that was under way meanwhile finds its body gone."""
    entry = await raw(store, "a")
    await store.invalidate("files", "a")
    assert not await store.update("mounts", entry.key, entry)
    await raw(store, "a", b"new")
    assert not await store.update("mounts", entry.key, entry)
    assert await kept(store, "a") == b"new"


@pytest.mark.asyncio
async def test_a_reader_finishes(store: Store) -> None:
    """What was open before is read to its end."""
    await raw(store, "a", b"old" * 1000)
    stored = await store.stored("mounts", raw_key("files", "a", ""))
    await store.invalidate("files", "a")
    assert stored is not None
    assert stored.handle.read() == b"old" * 1000
    stored.close()


@pytest.mark.asyncio
async def test_it_holds_where_the_database_fails(store: Store) -> None:
    """The change was made: what was asked for before it is not kept, whatever became of the rows."""
    before = store.mark()
    await store.close()
    with pytest.raises(StoreFailed):
        await store.invalidate("files", "a")
    assert store.fence.hides(before, *name_of("mounts", raw_key("files", "a", ""), "files/", ""))
    assert not store.fence.hides(store.mark(), *name_of("mounts", raw_key("files", "a", ""), "files/", ""))


@pytest.mark.asyncio
async def test_of_changes_that_are_forgotten_only_mounts_are_doubted(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: no removal is forgotten for them, and wheels and pages on their way are kept."""
    monkeypatch.setattr(fence_module, "_REMEMBERED_URLS", 3)
    fence = Fence()
    first = fence.mark()
    for number in range(5):
        with fence.invalidating("files", f"{number % 4}"):
            pass
    last = fence.mark()
    assert fence.hides(first, "mount", "files", "", "0")
    assert fence.hides(first, "mount", "files", "", "never")  # 1 was forgotten: of what is not known it is doubted
    assert not fence.hides(last, "mount", "files", "", "0")
    assert not fence.hides(last, "mount", "files", "", "never")
    assert not fence.hides(first, "wheel", "main", "six", "six-1.0-py3-none-any.whl")
    assert not fence.hides(first, "response", "files", "", None)
    # 2 and 3 are remembered as they were, 0 was changed once more.
    third = 3
    assert [fence.hides(third, "mount", "files", "", each) for each in ("2", "3", "0")] == [False, True, True]
