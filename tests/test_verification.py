"""What is at rest: a body is proven before its first hit, and again when its file has changed; now and then all are."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from proxy import rounds, verification
from proxy.directory import ROOMS, RoomName
from proxy.errors import StoreFailed
from proxy.room import Row
from proxy.rounds import Rounds
from proxy.store import Store
from tests.harness import rot
from tests.harness.rot import seen_to_change
from tests.keeping import TAG, body_of, files_in, keep, open_store, query

pytestmark = pytest.mark.asyncio
BODY = bytes(range(256)) * 2000
Damage = Callable[[Path], None]


def flip(path: Path) -> None:
    """One bit is another one."""
    seen_to_change(path, partial(rot.flip, at=1000))


def cut(path: Path) -> None:
    """Its last byte is lost."""
    os.truncate(path, path.stat().st_size - 1)


def replace(path: Path) -> None:
    """Another file of the same size and times takes its name."""
    other = path.with_name("other")
    other.write_bytes(BODY[::-1])
    found = path.stat()
    os.utime(other, ns=(found.st_atime_ns, found.st_mtime_ns))
    other.rename(path)


def back_in_time(path: Path) -> None:
    """A byte is flipped, and the time of the change set back."""
    found = path.stat()
    flip(path)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def place_of(store: Store, room: RoomName = "wheels") -> Path:
    """The only body of a room."""
    (name,) = files_in(store.directory / room)
    return store.directory / room / name


@pytest.mark.parametrize("again", [False, True], ids=["same process", "after a restart"])
@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("damage", [flip, cut, replace, back_in_time])
async def test_a_damaged_body_is_a_miss(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Damage, room: RoomName, again: bool
) -> None:
    """No byte of it is served; it goes with its row, is counted and logged once, and the next one is kept."""
    store = await open_store(tmp_path / "cache")
    await keep(store, "six", BODY, room=room)
    assert await body_of(store, "six", room) == BODY
    path = place_of(store, room)
    if again:
        await store.close()
        damage(path)
        store = await Store.open(tmp_path / "cache", max_size=10**8, responses_max_size=10**8, mounts_max_size=10**8,
                                 min_free=0, sweep=False)  # fmt: skip
    else:
        damage(path)
    try:
        found = await asyncio.gather(*(body_of(store, "six", room) for _ in range(20)))
        assert set(found) == {None}
        assert await store.entry(room, "six") is None
        assert not path.exists()
        assert getattr(store.stats(), room).damaged == 1
        (line,) = [each for each in caplog.records if getattr(each, "event", "") == "damaged"]
        assert line.levelno == logging.ERROR
        assert str(path.relative_to(store.directory)) in line.getMessage()
        assert store.degraded is None
        await keep(store, "six", BODY, room=room)
        assert await body_of(store, "six", room) == BODY
    finally:
        await store.close()


async def test_each_state_of_a_file_is_proven_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was fetched proved itself; after a start the first hit proves it for all that come with it and later; a
    change of the file, even a harmless one, asks for another proof."""
    store = await open_store(tmp_path / "cache")
    await keep(store, "six", BODY)
    assert await body_of(store, "six") == BODY
    assert store.verification.proven.count == 0
    await store.close()
    hashed = count_jobs(monkeypatch)
    store = await open_store(tmp_path / "cache")
    try:
        assert set(await asyncio.gather(*(body_of(store, "six") for _ in range(50)))) == {BODY}
        assert await body_of(store, "six") == BODY
        assert (store.verification.proven.count, len(hashed)) == (1, 1)
        os.chmod(place_of(store), 0o640)
        assert await body_of(store, "six") == BODY
        assert (store.verification.proven.count, store.verification.proven.bytes) == (2, 2 * len(BODY))
    finally:
        await store.close()


def count_jobs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Where each job of hashing began."""
    jobs: list[int] = []
    real = verification._update

    def counted(digest: object, descriptor: int, start: int, stop: int) -> None:
        jobs.append(start)
        real(digest, descriptor, start, stop)  # type: ignore[arg-type]  # as they came

    monkeypatch.setattr(verification, "_update", counted)
    return jobs


async def test_a_large_body_lets_small_ones_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is hashed in slices; nobody waits for all of it who does not want it."""
    monkeypatch.setattr(verification, "SLICE", 2**16)
    store = await open_store(tmp_path / "cache")
    await keep(store, "six", BODY)
    await keep(store, "small", b"small", name="small-1.0.tar.gz")
    await store.close()
    jobs = count_jobs(monkeypatch)
    store = await open_store(tmp_path / "cache")
    try:
        large = asyncio.create_task(body_of(store, "six"))
        await until(lambda: jobs)
        assert await body_of(store, "small") == b"small"
        assert not large.done()
        assert await large == BODY
        assert len(jobs) == 1 + -(-len(BODY) // 2**16)
    finally:
        await store.close()


async def test_a_proof_outlives_who_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that gives up waiting for a large file finds it proven when it comes again."""
    store = await open_store(tmp_path / "cache")
    await keep(store, "six", BODY)
    await store.close()
    jobs = count_jobs(monkeypatch)
    store = await open_store(tmp_path / "cache")
    try:
        impatient = asyncio.create_task(body_of(store, "six"))
        await until(lambda: jobs)
        impatient.cancel()
        await asyncio.wait([impatient])
        assert await body_of(store, "six") == BODY
        assert len(jobs) == 1
    finally:
        await store.close()


async def test_closing_gives_up_a_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop does not wait for gigabytes to be hashed; who waits gets no body."""
    monkeypatch.setattr(verification, "SLICE", 2**12)
    store = await open_store(tmp_path / "cache")
    await keep(store, "six", BODY)
    await store.close()
    jobs = count_jobs(monkeypatch)
    store = await open_store(tmp_path / "cache")
    waiting = asyncio.create_task(store.stored("wheels", "six"))
    await until(lambda: jobs)
    await store.close()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert len(jobs) < len(BODY) // 2**12


async def test_a_disk_that_cannot_be_read_loses_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the body is damaged is not known then: the store has failed, and says so until it works again."""
    store = await open_store(tmp_path / "cache")
    try:
        await keep(store, "six", BODY)
        os.chmod(place_of(store), 0o640)
        with monkeypatch.context() as patch:
            patch.setattr(os, "pread", fails)
            with pytest.raises(StoreFailed):
                await store.stored("wheels", "six")
            assert store.degraded == "the disk failed"
        assert await body_of(store, "six") == BODY
        assert store.degraded is None
    finally:
        await store.close()


def fails(*_: object) -> bytes:
    """What the kernel says of a sector that is gone."""
    raise OSError(5, "Input/output error")


async def test_a_file_that_is_written_to_all_the_time_is_not_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was proven a moment ago is another file by now; after three turns it is given up."""
    store = await open_store(tmp_path / "cache")
    try:
        await keep(store, "six", BODY)
        path, real, modes = place_of(store), verification._update, [0o640, 0o600] * 10

        def touching(*arguments: object) -> None:
            real(*arguments)  # type: ignore[arg-type]  # as they came
            before = path.stat().st_ctime_ns
            while path.exists() and path.stat().st_ctime_ns == before:
                os.chmod(path, modes.pop())
                modes.insert(0, 0o640)

        monkeypatch.setattr(verification, "_update", touching)
        os.chmod(path, 0o640)
        assert await store.stored("wheels", "six") is None
        assert not path.exists()
    finally:
        await store.close()


async def test_doubt_alone_costs_no_body(tmp_path: Path) -> None:
    """Clients whose connections break doubt the body at every moment, and it is read again for who asks; but nobody
    writes to it: it is served, and stays."""
    store = await open_store(tmp_path / "cache")

    async def doubting(filename: str) -> None:
        while True:
            store.verification.doubt(filename)
            await asyncio.sleep(0)

    try:
        kept = await keep(store, "six", BODY)
        doubts = asyncio.create_task(doubting(kept.body.removeprefix("wheels/")))
        await asyncio.sleep(0)
        try:
            assert await body_of(store, "six") == BODY
        finally:
            doubts.cancel()
        assert store.verification.proven.count == 1
        assert store.stats().wheels.damaged == 0
    finally:
        await store.close()


async def test_only_so_many_files_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded: the oldest is forgotten, and proven again."""
    monkeypatch.setattr(verification, "REMEMBERED", 2)
    store = await open_store(tmp_path / "cache")
    try:
        for number in range(4):
            await keep(store, f"key{number}", BODY, name=f"six-{number}.whl")
        assert [await body_of(store, f"key{number}") for number in (3, 2)] == [BODY, BODY]
        assert store.verification.proven.count == 0
        assert await body_of(store, "key0") == BODY
        assert store.verification.proven.count == 1
    finally:
        await store.close()


# --- rounds


async def test_a_round_finds_what_no_time_of_change_tells(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rotten bits change no stat: everything is read again. Damaged bodies and rows go, the others stay."""
    monkeypatch.setattr(verification, "_state", lambda *_: 0)
    store = await open_store(tmp_path / "cache")
    try:
        for room in ROOMS:
            await keep(store, "good", BODY, room=room)
            await keep(store, "rotten", BODY, room=room, name="rotten.whl")
            await keep(store, "gone", BODY, room=room, name="gone.whl")
        await store.write([Row("value", b"value", TAG), Row("wrong", b"wrong", TAG)])
        for path in store.directory.rglob("rotten.whl"):
            flip(path)
        for path in store.directory.rglob("gone.whl"):
            path.unlink()
        query(store.directory / "responses", "UPDATE Cache SET value = x'00000000' || 'wrong' WHERE key = 'wrong'")
        assert await body_of(store, "rotten") not in (None, BODY)
        went = await store.rounds.go()
        assert (went.bodies, went.rows, len(went.damaged), went.left) == (3, 11, 7, [])
        stats = store.stats()
        assert (stats.wheels.damaged, stats.responses.damaged, stats.mounts.damaged) == (2, 3, 2)
        for room in ROOMS:
            assert await body_of(store, "good", room) == BODY
            assert await body_of(store, "rotten", room) is None
        assert await store.read("value") == b"value"
        assert (await store.rounds.go()).damaged == []
    finally:
        await store.close()


async def test_rounds_come_when_it_is_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """At once where none was ever made, then after that time; the clock may go back; a removed file asks for one."""
    caplog.set_level(logging.INFO)
    store = await open_store(tmp_path / "cache")
    alone = Rounds(store.directory, store._rows, store._workers, store.verification)
    mark = store.directory / "verified"
    try:
        await keep(store, "six", BODY)
        going = asyncio.create_task(alone.now_and_then(0.05))
        await until(lambda: alone.last() > 0)
        seen = store.verification.proven.count
        await until(lambda: store.verification.proven.count > seen)
        going.cancel()
        assert "verified 1 bodies and 1 rows: 0 damaged" in caplog.text
        for moved in (None, time.time() + 10**6, time.time() - 10**6):
            await still(store)
            seen = store.verification.proven.count
            mark.unlink() if moved is None else os.utime(mark, (moved, moved))
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(rounds, "LOOK_EVERY", 0.01)
                once = asyncio.create_task(alone.now_and_then(1000.0))
                await until(lambda: store.verification.proven.count > seen)  # noqa: B023 - waited for right here
                await until(lambda: abs(alone.last() - time.time()) < 100)
                once.cancel()
    finally:
        await store.close()


async def until(condition: Callable[[], object]) -> None:
    """Let the event loop work until that is so."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)


async def still(store: Store) -> None:
    """Nothing is being hashed any more."""
    seen = -1
    while seen != store.verification.proven.count:
        seen = store.verification.proven.count
        await asyncio.sleep(0.05)


async def test_never_is_never(tmp_path: Path) -> None:
    """With 0 there are no rounds at all."""
    store = await open_store(tmp_path / "cache")
    try:
        await asyncio.wait_for(store.rounds.now_and_then(0.0), 5)
    finally:
        await store.close()


async def test_a_round_keeps_its_rate(tmp_path: Path) -> None:
    """So many bytes per second at most, and nobody else is held up meanwhile."""
    store = await open_store(tmp_path / "cache")
    try:
        await keep(store, "six", BODY)
        since = time.monotonic()
        await store.rounds.go(rate=2 * len(BODY))
        assert time.monotonic() - since >= 0.5
    finally:
        await store.close()


def spoil_index(room: Path) -> None:
    """One letter of a file name is another one, in the index alone."""
    select = "SELECT rootpage, (SELECT page_size FROM pragma_page_size), (SELECT filename FROM Cache)"
    ((page, size, filename),) = query(room, f"{select} FROM sqlite_master WHERE name = 'Room_file'")
    database = bytearray((room / "cache.db").read_bytes())
    at = database.index(filename.encode(), (page - 1) * size, page * size)
    database[at] ^= 1
    (room / "cache.db").write_bytes(database)


async def test_a_thorough_round_mends_an_index(tmp_path: Path) -> None:
    """An index that leads to the wrong rows is made anew, and no row is lost."""
    store = await open_store(tmp_path / "cache")
    await keep(store, "six", BODY)
    await store.write([Row("value", b"value", TAG)])
    await store.close()
    spoil_index(tmp_path / "cache/wheels")
    store = await Store.open(tmp_path / "cache", max_size=10**8, responses_max_size=10**8, mounts_max_size=10**8,
                             min_free=0, sweep=False)  # fmt: skip
    try:
        went = await store.rounds.thorough()
        await store.swept()
        assert went.damaged == ["wheels: the database"]
        assert await store.read("value") == b"value"
        assert await body_of(store, "six") == BODY
        assert (await store.rounds.thorough()).damaged == []
        await store.swept()
    finally:
        await store.close()


async def test_settings_that_are_none_stop_no_start(tmp_path: Path) -> None:
    """diskcache reads its settings from the database, and stumbles over a damaged one: that room starts empty."""
    store = await open_store(tmp_path / "cache")
    await keep(store, "six", BODY)
    await store.close()
    query(tmp_path / "cache/wheels", "DROP TABLE Settings")
    query(tmp_path / "cache/wheels", "CREATE TABLE Settings (key TEXT, value)")
    query(tmp_path / "cache/wheels", "INSERT INTO Settings VALUES (NULL, 1)")
    store = await open_store(tmp_path / "cache")
    try:
        assert await body_of(store, "six") is None
        await keep(store, "six", BODY)
        assert await body_of(store, "six") == BODY
    finally:
        await store.close()
