"""The store as its users see it: values, bodies, eviction, memory, cancellation."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from proxy.core.messages import Head
from proxy.errors import StoreFailed
from proxy.memory import OVERHEAD
from proxy.store import Row, Store, dump_entry
from tests.keeping import NAME, TAG, body_of, entry_of, files_in, keep, open_store, query


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """A store with roomy limits."""
    opened = await open_store(tmp_path / "cache")
    yield opened
    await opened.close()


# --- small values


@pytest.mark.asyncio
async def test_values_survive_a_restart(tmp_path: Path) -> None:
    """What was written is read back byte for byte, also by the next process."""
    values = {"empty": b"", "page": b"\x00\xff" * 1000, "große": "ä".encode()}
    store = await open_store(tmp_path / "cache")
    await store.write([Row(key, value, TAG) for key, value in values.items()])
    await store.close()
    store = await open_store(tmp_path / "cache")
    assert {key: await store.read(key) for key in values} == values
    assert await store.read("absent") is None
    assert store.stats().responses.count == 3
    assert store.stats().responses.bytes == sum(map(len, values.values()))
    await store.close()


@pytest.mark.asyncio
async def test_peek_needs_no_thread(store: Store) -> None:
    """A value is in memory as soon as it was written or read, and gone with a drop."""
    assert store.peek("a") is None
    await store.write([Row("a", b"1", TAG)])
    assert store.peek("a") == b"1"
    await store.drop(["a", "never there"])
    assert store.peek("a") is None
    assert await store.read("a") is None


@pytest.mark.asyncio
async def test_write_and_drop_are_one_transaction(store: Store, tmp_path: Path) -> None:
    """A row that cannot be kept leaves everything of its transaction as it was."""
    await store.write([Row("old", b"old", TAG), Row("page", b"1", TAG)])
    with pytest.raises(StoreFailed):
        await store.write([Row("page", b"2", TAG), Row("bad \ud800", b"", TAG)], drop=["old"])
    assert [await store.read("old"), await store.read("page")] == [b"old", b"1"]
    await store.write([Row("page", b"2", TAG)], drop=["old", "page"])
    assert [await store.read("old"), await store.read("page")] == [None, b"2"]
    assert query(tmp_path / "cache/responses", "SELECT key FROM Cache") == [("page",)]


@pytest.mark.asyncio
@pytest.mark.parametrize("value", ["text", 1, None, {"a": 1}, bytearray(b"x")])
async def test_only_bytes_are_kept(store: Store, value: object) -> None:
    """Anything but bytes is refused: diskcache would pickle it."""
    with pytest.raises((StoreFailed, TypeError)):
        await store.write([Row("key", value, TAG)])  # type: ignore[arg-type]  # what is refused
    assert store.stats().responses.count == 0


@pytest.mark.asyncio
async def test_a_value_over_a_quarter_of_the_limit_is_refused(tmp_path: Path) -> None:
    """One value must not push out everything else."""
    store = await open_store(tmp_path / "cache", responses_max_size=1000)
    await store.write([Row("small", b"x" * 250, TAG)])
    with pytest.raises(StoreFailed):
        await store.write([Row("large", b"x" * 251, TAG)])
    await store.close()


# --- bodies


@pytest.mark.asyncio
async def test_adopted_bodies_are_real_files(store: Store, tmp_path: Path) -> None:
    """The body lies under its real name, the entry says where, and incoming/ is empty again."""
    entry = await keep(store, "six", b"wheel" * 100)
    path = tmp_path / "cache" / entry.body
    assert path.name == NAME
    assert path.read_bytes() == b"wheel" * 100
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_nlink == 1
    assert not list((tmp_path / "cache/incoming").iterdir())
    assert (
        await store.entry("wheels", "six")
        == entry
        == replace(entry_of("six", b"wheel" * 100), body=entry.body)
    )
    assert store.stats().wheels.bytes == 500


@pytest.mark.asyncio
async def test_bodies_survive_a_restart(tmp_path: Path) -> None:
    """Entry and body are the same for the next process, in both rooms."""
    store = await open_store(tmp_path / "cache")
    wheel = await keep(store, "six", b"wheel")
    metadata = await keep(store, "six", b"metadata", room="responses")
    await store.close()
    store = await open_store(tmp_path / "cache")
    assert await store.entry("wheels", "six") == wheel
    assert await store.entry("responses", "six") == metadata
    assert [await body_of(store, "six"), await body_of(store, "six", "responses")] == [b"wheel", b"metadata"]
    await store.close()


@pytest.mark.asyncio
async def test_a_replaced_body_goes_but_its_reader_finishes(store: Store, tmp_path: Path) -> None:
    """Adopting a key again unlinks the old file, never the new one."""
    await keep(store, "six", b"old" * 1000)
    reader = await store.stored("wheels", "six")
    assert reader is not None
    await keep(store, "six", b"new")
    assert reader.handle.read() == b"old" * 1000
    reader.close()
    assert await body_of(store, "six") == b"new"
    assert list(files_in(tmp_path / "cache/wheels").values()) == [3]
    assert store.stats().wheels.bytes == 3


@pytest.mark.asyncio
async def test_followers_read_the_spool_after_adoption(store: Store) -> None:
    """Adoption leaves the spool's descriptor open; discarding closes it, twice is no error."""
    spool = await store.spool()
    os.write(spool.fd, b"body")
    await store.adopt("wheels", spool, entry_of("six", b"body"), NAME)
    assert os.pread(spool.fd, 10, 0) == b"body"
    await store.discard(spool)
    await store.discard(spool)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(spool.fd)
    assert await body_of(store, "six") == b"body"


@pytest.mark.asyncio
async def test_concurrent_adoptions_of_one_key(store: Store, tmp_path: Path) -> None:
    """Whoever commits last wins; exactly one file is left and it is the row's."""
    bodies = [b"%d" % number * 100 for number in range(20)]
    await asyncio.gather(*(keep(store, "six", body) for body in bodies))
    entry = await store.entry("wheels", "six")
    assert entry is not None
    assert await body_of(store, "six") in bodies
    assert list(files_in(tmp_path / "cache/wheels")) == [entry.body.removeprefix("wheels/")]
    assert store.stats().wheels.bytes == entry.size


@pytest.mark.asyncio
async def test_a_body_of_another_size_than_its_entry_is_refused(store: Store, tmp_path: Path) -> None:
    """A short spool never becomes a row, and leaves no file."""
    spool = await store.spool()
    os.write(spool.fd, b"shor")
    with pytest.raises(StoreFailed):
        await store.adopt("wheels", spool, entry_of("six", b"short"), NAME)
    await store.discard(spool)
    assert await store.entry("wheels", "six") is None
    assert not any((tmp_path / "cache/wheels").glob("??"))
    assert not any((tmp_path / "cache/incoming").iterdir())


@pytest.mark.asyncio
@pytest.mark.parametrize("damage", ["unlink", "truncate", "grow", "directory", "pipe", "link"])
async def test_a_body_that_is_not_as_it_was_is_a_miss(store: Store, tmp_path: Path, damage: str) -> None:
    """Vanished, cut, grown or exchanged for something else: the row goes, the reader gets None."""
    entry = await keep(store, "six", b"body")
    path = tmp_path / "cache" / entry.body
    if damage in ("truncate", "grow"):
        os.truncate(path, 3 if damage == "truncate" else 5)
    else:
        path.unlink()
    if damage == "directory":
        path.mkdir()
    elif damage == "pipe":
        os.mkfifo(path)
    elif damage == "link":
        path.symlink_to("/dev/zero")
    assert await store.stored("wheels", "six") is None
    assert await store.entry("wheels", "six") is None
    assert store.stats().wheels == replace(store.stats().wheels, count=0, bytes=0)
    await keep(store, "six", b"again")
    assert await body_of(store, "six") == b"again"


@pytest.mark.asyncio
async def test_update_puts_a_new_head_over_the_same_body(store: Store) -> None:
    """A refreshed head is read back; one that belongs to a replaced or removed body is not taken."""
    first = await keep(store, "six", b"body")
    refreshed = replace(first, head=Head(200, (("ETag", '"2"'),), 5.0, 6.0))
    assert await store.update("wheels", "six", refreshed)
    assert await store.entry("wheels", "six") == refreshed
    second = await keep(store, "six", b"other")
    assert not await store.update("wheels", "six", refreshed)
    assert await store.entry("wheels", "six") == second
    await store.remove("wheels", ["six"])
    assert not await store.update("wheels", "six", second)
    assert await store.entry("wheels", "six") is None


@pytest.mark.asyncio
async def test_remove_counts_bytes_and_lets_readers_finish(store: Store, tmp_path: Path) -> None:
    """More keys than one step takes; what is absent counts nothing."""
    for number in range(5):
        await keep(store, f"key{number}", b"x" * 100)
    reader = await store.stored("wheels", "key0")
    assert reader is not None
    assert await store.remove("wheels", [f"key{number}" for number in range(450)]) == 500
    assert reader.handle.read() == b"x" * 100
    reader.close()
    assert not any((tmp_path / "cache/wheels").glob("??"))
    assert store.stats().wheels.count == 0


@pytest.mark.asyncio
async def test_find_gives_the_entries_of_a_tag(store: Store) -> None:
    """Bodies and dumped entries of that tag, no other tag's and no page that merely shares it."""
    one = await keep(store, "one", b"1", room="responses")
    two = entry_of("two", b"")
    await keep(store, "other", b"1", room="responses", tag="default/sixty")
    await store.write(
        [Row("two", dump_entry(two), TAG), Row("page", b'["entry/1",', TAG), Row("p", b"<", TAG)]
    )
    assert sorted(await store.find("responses", TAG), key=lambda entry: entry.key) == [one, two]
    assert await store.find("wheels", TAG) == []


@pytest.mark.asyncio
async def test_entries_can_be_small_values(store: Store) -> None:
    """The head of a page is a dumped entry in a row; it has no body in a file."""
    head = replace(entry_of("page", b"html"), body="version")
    await store.write([Row("page", dump_entry(head), TAG)])
    assert await store.entry("responses", "page") == head
    assert await store.stored("responses", "page") is None
    assert await store.entry("responses", "page") == head


# --- what goes, and in which order


@pytest.mark.asyncio
async def test_least_recently_used_bodies_go_down_to_the_low_water_mark(tmp_path: Path) -> None:
    """Over the limit, bodies go in the order of their last use until 90 % are left."""
    store = await open_store(tmp_path / "cache", max_size=1000)
    for number in range(10):
        await keep(store, f"key{number}", b"x" * 100)
    assert store.stats().wheels.bytes == 1000
    await body_of(store, "key0")
    await store.entry("wheels", "key1")
    await keep(store, "new", b"x" * 50)
    left = {entry.key for entry in await store.find("wheels", TAG)}
    assert left == {"key0", "key1", "key4", "key5", "key6", "key7", "key8", "key9", "new"}
    assert store.stats().wheels.bytes == sum(files_in(tmp_path / "cache/wheels").values()) == 850
    await store.close()


@pytest.mark.asyncio
async def test_the_order_of_use_survives_a_restart(tmp_path: Path) -> None:
    """Access times are written when the store closes."""
    store = await open_store(tmp_path / "cache", max_size=1000)
    for number in range(10):
        await keep(store, f"key{number}", b"x" * 100)
    await body_of(store, "key0")
    await store.close()
    store = await open_store(tmp_path / "cache", max_size=1000)
    await keep(store, "new", b"x")
    assert await store.entry("wheels", "key0") is not None
    assert await store.entry("wheels", "key1") is None
    await store.close()


@pytest.mark.asyncio
async def test_access_times_are_written_in_batches(store: Store, tmp_path: Path) -> None:
    """A read writes nothing; the next flush writes all reads at once."""
    await store.write([Row(f"key{number}", b"x", TAG) for number in range(450)])
    times = "SELECT key, access_time FROM Cache ORDER BY key"
    before = query(tmp_path / "cache/responses", times)
    for number in range(449):
        assert await store.read(f"key{number}") == b"x"
    assert query(tmp_path / "cache/responses", times) == before
    await store.flush()
    after = query(tmp_path / "cache/responses", times)
    newer = [key for (key, old), (_, new) in zip(before, after, strict=True) if new > old]
    assert len(newer) == 449
    assert "key449" not in newer


@pytest.mark.asyncio
async def test_a_use_before_a_writing_does_not_make_the_row_older(tmp_path: Path) -> None:
    """An access time still in memory when its row is replaced is older than the row."""
    store = await open_store(tmp_path / "cache", max_size=1000)
    await keep(store, "six", b"x" * 200)
    await body_of(store, "six")
    for key in ("a", "b", "c"):
        await keep(store, key, b"x" * 200)
    await keep(store, "six", b"y" * 200)
    await keep(store, "d", b"x" * 250)
    assert await body_of(store, "six") == b"y" * 200
    assert await store.entry("wheels", "a") is None
    await store.close()


@pytest.mark.asyncio
async def test_wheels_never_push_pages_out(tmp_path: Path) -> None:
    """Each room has a limit of its own."""
    store = await open_store(tmp_path / "cache", max_size=1000, responses_max_size=1000)
    await store.write([Row(f"page{number}", b"x" * 200, TAG) for number in range(5)])
    for number in range(50):
        await keep(store, f"key{number}", b"x" * 200)
    assert store.stats().responses.count == 5
    assert store.stats().wheels.bytes <= 1000
    await store.write([Row("page5", b"x" * 200, TAG)])
    assert store.stats().responses.bytes == 800
    assert await store.read("page0") is None
    assert await store.read("page5") is not None
    await store.close()


@pytest.mark.asyncio
async def test_more_rows_than_one_step_are_evicted(tmp_path: Path) -> None:
    """An eviction of thousands of rows goes on in steps until the mark is reached."""
    store = await open_store(tmp_path / "cache", responses_max_size=4000)
    await store.write([Row(f"key{number}", b"x", TAG) for number in range(3500)])
    await store.write([Row("large", b"x" * 1000, TAG)])
    assert store.stats().responses.bytes == 3600
    assert await store.read("key899") is None
    assert await store.read("key900") == b"x"
    await store.close()


@pytest.mark.asyncio
async def test_an_evicted_body_is_read_to_its_end(tmp_path: Path) -> None:
    """A reader holds the file open; eviction only takes its name."""
    store = await open_store(tmp_path / "cache", max_size=1000)
    await keep(store, "first", b"a" * 250)
    reader = await store.stored("wheels", "first")
    assert reader is not None
    for number in range(8):
        await keep(store, f"key{number}", b"x" * 250)
    assert await store.stored("wheels", "first") is None
    assert reader.handle.read() == b"a" * 250
    reader.close()
    await store.close()


@pytest.mark.asyncio
async def test_room_is_a_quarter_of_the_limit_and_the_floor_of_the_disk(tmp_path: Path) -> None:
    """Larger objects are refused; when the disk is short, wheels go first and then the answer is no."""
    disk = os.statvfs(tmp_path)
    free = disk.f_bavail * disk.f_frsize
    store = await open_store(tmp_path / "cache", max_size=free * 8, responses_max_size=400)
    assert store.has_room(1000)
    assert not store.has_room(free * 2 + 1)
    assert store.has_room(100, "responses")
    assert not store.has_room(101, "responses")
    assert not store.has_room(free + 10**9)
    with pytest.raises(StoreFailed):
        await keep(store, "six", b"x" * 101, room="responses")
    assert store.degraded is None
    await store.close()
    assert not store.has_room(1)


# --- memory and cancellation


@pytest.mark.asyncio
async def test_memory_is_bounded(tmp_path: Path) -> None:
    """The table never exceeds its bytes; the least recently used values are read from disk again."""
    store = await open_store(tmp_path / "cache", memory=20 * OVERHEAD)
    for number in range(50):
        await store.write([Row(f"key{number}", b"x" * OVERHEAD, TAG)])
    assert store.stats().memory_count == 10
    assert store.stats().memory_bytes == 20 * OVERHEAD
    assert store.peek("key0") is None
    assert await store.read("key0") == b"x" * OVERHEAD
    assert store.peek("key0") is not None
    await store.write([Row("large", b"x" * 3 * OVERHEAD, TAG)])
    assert store.peek("large") is None
    assert await store.read("large") == b"x" * 3 * OVERHEAD
    await store.close()


@pytest.mark.asyncio
async def test_memory_never_holds_an_older_value_than_the_disk(tmp_path: Path) -> None:
    """Readers and writers in every order: once all is quiet, memory and disk agree."""
    store = await open_store(tmp_path / "cache", memory=8 * (OVERHEAD + 8))

    async def read(key: str) -> None:
        await store.read(key)

    for turn in range(100):
        keys = [f"key{turn * number % 7}" for number in range(3)]
        work = []
        for number, key in enumerate(keys):
            work += [read(key), store.write([Row(key, b"%d.%d" % (turn, number), TAG)]), read(key)]
            if number == turn % 3:
                work += [store.drop([key]), read(key)]
        await asyncio.gather(*work)
        peeked = {key: store.peek(key) for key in keys}
        rows = dict(query(tmp_path / "cache/responses", "SELECT key, substr(value, 5) FROM Cache"))
        for key, value in peeked.items():
            assert value is None or value == rows[key]
            assert await store.read(key) == rows.get(key)
    await store.close()


@pytest.mark.asyncio
async def test_a_cancelled_adoption_goes_on_and_leaves_no_orphan(store: Store, tmp_path: Path) -> None:
    """Cancelled at any moment, and its spool discarded: a row with its file, or neither."""
    for hops in range(30):
        spool = await store.spool()
        os.write(spool.fd, b"body")
        task = asyncio.create_task(store.adopt("wheels", spool, entry_of(f"key{hops}", b"body"), NAME))
        for _ in range(hops):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await store.discard(spool)
    await store.close()
    limits: dict[str, Any] = {"max_size": 10**8, "responses_max_size": 10**8, "mounts_max_size": 10**8}
    store = await Store.open(tmp_path / "cache", **limits, min_free=0)
    entries = await store.find("wheels", TAG)
    assert set(files_in(tmp_path / "cache/wheels")) == {
        entry.body.removeprefix("wheels/") for entry in entries
    }
    assert not any((tmp_path / "cache/incoming").iterdir())
    await store.close()


@pytest.mark.asyncio
async def test_a_closed_store_fails_politely(tmp_path: Path) -> None:
    """After close every coroutine raises StoreFailed; closing twice is no error."""
    store = await open_store(tmp_path / "cache")
    spool = await store.spool()
    await store.close()
    await store.close()
    for call in (
        store.read("key"),
        store.write([Row("key", b"", TAG)]),
        store.drop(["key"]),
        store.entry("wheels", "key"),
        store.stored("wheels", "key"),
        store.find("wheels", TAG),
        store.adopt("wheels", spool, entry_of("key", b""), NAME),
        store.remove("wheels", ["key"]),
    ):
        with pytest.raises(StoreFailed):
            await call
    spool.close()
