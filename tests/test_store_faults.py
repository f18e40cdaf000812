"""What the store survives: other owners, other versions, damage at rest, full disks, strays."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from proxy.bodies import discard_spool, open_spool, place, remove_files
from proxy.directory import ROOMS
from proxy.errors import OwnedElsewhere, StoreFailed
from proxy.store import Row, Store
from tests.keeping import NAME, TAG, body_of, files_in, keep, open_store, query

ROOT = Path(__file__).parents[1]


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """A store with roomy limits."""
    opened = await open_store(tmp_path / "cache")
    yield opened
    await opened.close()


def run(script: str, *arguments: object) -> subprocess.Popen[str]:
    """A Python process with the project at hand; its output is a pipe."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


# --- the directory

OWN = """
import asyncio, sys
from pathlib import Path
from tests.keeping import open_store
async def main():
    store = await open_store(Path(sys.argv[1]))
    print("open", flush=True)
    sys.stdin.readline()
asyncio.run(main())
"""


async def test_a_second_owner_is_told_who_the_first_is(tmp_path: Path) -> None:
    """Another process cannot open the directory until its owner is gone, however it went."""
    command = [sys.executable, "-c", OWN, str(tmp_path / "cache")]
    with subprocess.Popen(  # noqa: ASYNC220 - the test has nothing else to do
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "open\n"
        with pytest.raises(OwnedElsewhere) as caught:
            await open_store(tmp_path / "cache")
        assert caught.value.pid == owner.pid
        owner.kill()
    store = await open_store(tmp_path / "cache")
    with pytest.raises(OwnedElsewhere) as caught:
        await open_store(tmp_path / "cache")
    assert caught.value.pid == os.getpid()
    await store.close()
    await (await open_store(tmp_path / "cache")).close()


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
async def test_nobody_else_can_read_it(tmp_path: Path, umask: int) -> None:
    """Directories are 0700 and files 0600, whatever the umask; an existing directory is tightened."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o755)
    before = os.umask(umask)
    try:
        store = await open_store(tmp_path / "cache")
        await store.write([Row("key", b"x", TAG)])
        await keep(store, "six", b"body")
        spool = await store.spool()
    finally:
        os.umask(before)
    for path in [tmp_path / "cache", *(tmp_path / "cache").rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    spool.close()
    await store.close()


def everything(directory: Path) -> dict[str, tuple[int, bytes]]:
    """Modes and contents of a tree."""
    paths = [directory, *directory.rglob("*")]
    return {str(path): (path.stat().st_mode, path.read_bytes() if path.is_file() else b"") for path in paths}


@pytest.mark.parametrize("version", ["2", "10\n", "0", "-1", "one", "", "1.0", "\x00"])
async def test_another_version_is_refused_untouched(tmp_path: Path, version: str) -> None:
    """A newer VERSION, or one that cannot be read: refuse to start, touch nothing."""
    cache = tmp_path / "cache"
    (cache / "incoming").mkdir(parents=True)
    (cache / "incoming/spool").write_text("theirs")
    (cache / "VERSION").write_text(version)
    before = everything(cache)
    with pytest.raises(StoreFailed):
        await open_store(cache)
    assert everything(cache) == before


async def test_a_folder_that_is_no_cache_is_refused_untouched(tmp_path: Path) -> None:
    """Somebody's own folder with wheels in it must not be swept."""
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels/mine.whl").write_text("mine")
    before = everything(tmp_path)
    with pytest.raises(StoreFailed):
        await open_store(tmp_path)
    assert everything(tmp_path) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make another user's directory")
async def test_another_user_s_directory_is_refused(tmp_path: Path) -> None:
    """Its owner could exchange what lies in it."""
    (tmp_path / "cache").mkdir()
    os.chown(tmp_path / "cache", 65534, 65534)
    with pytest.raises(StoreFailed, match="another user"):
        await open_store(tmp_path / "cache")


@pytest.mark.parametrize("kind", ["file", "below a file", "variable", "no such place"])
async def test_a_place_that_cannot_be_a_cache(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """StoreFailed, not the system's own errors."""
    monkeypatch.setenv("STORE_TEST_PLACE", "elsewhere")
    (tmp_path / "file").write_text("")
    place = {"file": "file", "below a file": "file/cache", "variable": "$STORE_TEST_PLACE"}.get(
        kind, "x" * 300
    )
    with pytest.raises(StoreFailed):
        await open_store(tmp_path / place)
    assert not (tmp_path / "elsewhere").exists()


# --- the sweep


async def test_strays_of_every_kind_are_swept(tmp_path: Path) -> None:
    """Spool files, files without rows, foreign files and empty directories go; what has a row stays."""
    store = await open_store(tmp_path / "cache")
    kept = [await keep(store, f"key{number}", b"x" * 100) for number in range(300)]
    await store.close()
    cache = tmp_path / "cache"
    (cache / "incoming/spool").write_bytes(b"x")
    (cache / "incoming/folder").mkdir()
    (cache / "incoming/folder/file").write_bytes(b"x")
    beside = (cache / kept[0].body).parent
    (beside / "beside.whl").write_bytes(b"x")
    for room in ROOMS:
        (cache / room / "aa/0123456789abcdef").mkdir(parents=True, exist_ok=True)
        (cache / room / "aa/0123456789abcdef/orphan.whl").write_bytes(b"x")
        (cache / room / "aa/0123456789abcdee").mkdir()
        (cache / room / "foreign/deep/deeper").mkdir(parents=True)
        (cache / room / "foreign/deep/file").write_bytes(b"x")
        (cache / room / "zz").write_bytes(b"x")
        (cache / room / "link").symlink_to(tmp_path)
    (tmp_path / "outside").write_bytes(b"x")
    store = await open_store(cache)
    assert not list((cache / "incoming").iterdir())
    assert set(files_in(cache / "wheels")) == {entry.body.removeprefix("wheels/") for entry in kept}
    for room in ("mounts", "responses"):
        assert [path.name for path in (cache / room).iterdir() if not path.name.startswith("cache.db")] == []
    assert (tmp_path / "outside").exists()
    assert sum(1 for path in (cache / "wheels").glob("??/*")) == 300
    await store.close()


def test_a_directory_that_others_remove_all_the_time(tmp_path: Path) -> None:
    """What is removed takes the empty directory with it that the next body is about to lie in: it is made again."""
    room, over = tmp_path / "wheels", threading.Event()
    room.mkdir()

    def remove() -> None:
        while not over.wait(random.uniform(0, 0.0002)):
            with suppress(OSError):
                os.rmdir(room / "aa")

    with ThreadPoolExecutor(1) as other:
        removing = other.submit(remove)
        try:
            for number in range(500):
                spool = open_spool(tmp_path)
                filename = f"aa/{number:016x}/{NAME}"
                place(room, filename, spool.path, spool.fd, 0)
                discard_spool(spool)
                assert (room / filename).exists()
                remove_files(room, [filename])
        finally:
            over.set()
        removing.result()


async def test_rows_without_their_body_are_swept(tmp_path: Path) -> None:
    """Vanished and truncated bodies cost no space in the books after a start."""
    store = await open_store(tmp_path / "cache")
    entries = [await keep(store, f"key{number}", b"x" * 100) for number in range(250)]
    await store.close()
    for entry in entries[:100]:
        (tmp_path / "cache" / entry.body).unlink()
    for entry in entries[100:200]:
        os.truncate(tmp_path / "cache" / entry.body, 50)
    store = await open_store(tmp_path / "cache")
    assert store.stats().wheels.count == 50
    assert store.stats().wheels.bytes == sum(files_in(tmp_path / "cache/wheels").values()) == 5000
    await store.close()


async def test_the_sweep_spares_what_is_adopted_meanwhile(tmp_path: Path) -> None:
    """Adoptions, replacements and removals from the first moment on, while strays go."""
    store = await open_store(tmp_path / "cache")
    for number in range(200):
        await keep(store, f"key{number}", b"old")
    await store.close()
    for number in range(256):
        stray = tmp_path / f"cache/wheels/{number:02x}/0123456789abcdef/stray.whl"
        stray.parent.mkdir(parents=True)
        stray.write_bytes(b"x")
    limits: dict[str, Any] = {"max_size": 10**8, "responses_max_size": 10**8, "mounts_max_size": 10**8}
    store = await Store.open(tmp_path / "cache", min_free=0, **limits)
    for start in range(0, 300, 20):
        await asyncio.gather(*(keep(store, f"key{number}", b"new") for number in range(start, start + 20)))
        await store.remove("wheels", [f"key{start}"])
    await store.swept()
    entries = await store.find("wheels", TAG)
    assert len(entries) == 285
    for entry in entries:
        assert await body_of(store, entry.key) == b"new"
    assert set(files_in(tmp_path / "cache/wheels")) == {
        entry.body.removeprefix("wheels/") for entry in entries
    }
    await store.close()


async def test_a_clock_that_was_ahead_makes_nothing_eternal(tmp_path: Path) -> None:
    """Access times of the future become those of the start; sums that are wrong are put right."""
    store = await open_store(tmp_path / "cache")
    await keep(store, "six", b"body")
    await store.close()
    query(tmp_path / "cache/wheels", "UPDATE Cache SET access_time = access_time + 1e9")
    query(tmp_path / "cache/wheels", "UPDATE Settings SET value = 12345 WHERE key IN ('size', 'count')")
    store = await open_store(tmp_path / "cache")
    assert query(tmp_path / "cache/wheels", "SELECT access_time FROM Cache")[0][0] <= time.time()
    assert (store.stats().wheels.count, store.stats().wheels.bytes) == (1, 4)
    await store.close()


# --- damage at rest


@pytest.mark.parametrize("garbage", [b"garbage" * 1000, b"SQLite format 3\0" + b"\xff" * 5000, b"x"])
async def test_a_database_that_is_none_is_replaced(tmp_path: Path, garbage: bytes) -> None:
    """It is a cache: the room starts empty, its bodies are swept, the other room is untouched."""
    store = await open_store(tmp_path / "cache")
    await keep(store, "six", b"body")
    await store.write([Row("page", b"page", TAG)])
    await store.close()
    (tmp_path / "cache/wheels/cache.db").write_bytes(garbage)
    store = await open_store(tmp_path / "cache")
    assert await store.entry("wheels", "six") is None
    assert await store.read("page") == b"page"
    assert files_in(tmp_path / "cache/wheels") == {}
    await keep(store, "six", b"again")
    assert await body_of(store, "six") == b"again"
    assert store.degraded is None
    await store.close()


async def test_a_database_of_somebody_else_is_replaced(tmp_path: Path) -> None:
    """Tables of the same names and other columns are not ours."""
    store = await open_store(tmp_path / "cache")
    await store.close()
    (tmp_path / "cache/wheels/cache.db").unlink()
    query(tmp_path / "cache/wheels", "CREATE TABLE Cache (a, b)")
    store = await open_store(tmp_path / "cache")
    await keep(store, "six", b"body")
    assert await body_of(store, "six") == b"body"
    await store.close()


async def test_flipped_bytes_of_the_database_heal(tmp_path: Path) -> None:
    """Every read gives the right bytes, nothing, or StoreFailed; after at most a few failures all works."""
    choose = random.Random(15)
    values = {f"key{number}": f"key{number}".encode() * 300 for number in range(100)}
    database = tmp_path / "cache/responses/cache.db"
    for _ in range(20):
        store = await open_store(tmp_path / "cache")
        await store.write([Row(key, value, TAG) for key, value in values.items()])
        await store.close()
        data = bytearray(database.read_bytes())
        for _ in range(choose.choice([1, 10, 200])):
            data[choose.randrange(100, len(data))] ^= choose.randrange(1, 256)
        database.write_bytes(data)
        store = await open_store(tmp_path / "cache")
        failures = 0
        for key, value in values.items():
            try:
                assert await store.read(key) in (None, value)
            except StoreFailed:
                failures += 1
        assert failures <= 2
        for key, value in values.items():
            try:
                await store.write([Row(key, value, TAG)])
            except StoreFailed:
                failures += 1
        assert failures <= 4
        await store.write([Row("healed", b"x", TAG)])
        assert store.degraded is None
        await store.close()


async def test_a_database_that_breaks_while_open_is_replaced(store: Store, tmp_path: Path) -> None:
    """The failing call says so, the room starts empty at once, and what had been kept is swept."""
    await keep(store, "six", b"body")
    database = tmp_path / "cache/wheels/cache.db"
    query(database.parent, "PRAGMA wal_checkpoint(TRUNCATE)")
    descriptor = os.open(database, os.O_WRONLY)
    os.write(descriptor, b"\xff" * database.stat().st_size)
    os.close(descriptor)
    with pytest.raises(StoreFailed, match="corrupt"):
        await keep(store, "seven", b"body")
    await keep(store, "nine", b"body")
    assert store.degraded is None
    await store.swept()
    entries = await store.find("wheels", TAG)
    assert set(files_in(database.parent)) == {entry.body.removeprefix("wheels/") for entry in entries}
    assert await body_of(store, "nine") == b"body"


async def test_a_locked_database_fails_soon(store: Store, tmp_path: Path) -> None:
    """Somebody's lock is waited for a second, not a minute; reading goes on."""
    await store.write([Row("key", b"1", TAG)])
    connection = sqlite3.connect(tmp_path / "cache/responses/cache.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    with pytest.raises(StoreFailed, match="locked"):
        await store.write([Row("key", b"2", TAG)])
    assert time.monotonic() - began < 10
    assert store.degraded == "the database is locked"
    assert await store.read("key") == b"1"
    assert store.degraded == "the database is locked"
    connection.execute("ROLLBACK")
    connection.close()
    await store.write([Row("key", b"3", TAG)])
    assert not store.degraded
    assert await store.read("key") == b"3"


# --- full disks

FULL = """
import asyncio, os, resource, signal, sys
from pathlib import Path
from proxy.errors import StoreFailed
from proxy.store import Row
from tests.keeping import NAME, TAG, body_of, entry_of, files_in, keep, open_store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
async def main():
    where = Path(sys.argv[1])
    store = await open_store(where)
    await store.write([Row("page", b"1" * 1000, TAG)])
    await keep(store, "six", b"body")
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    for _ in range(3):
        try:
            await store.write([Row("page", b"2" * 100_000, TAG), Row("other", b"2", TAG)], drop=["six"])
        except StoreFailed: pass
        else: raise SystemExit("a write worked on a full disk")
        assert store.degraded in ("the disk is full", "the disk failed"), store.degraded
        try:
            await keep(store, "six", b"new body")
        except StoreFailed: pass
        else: raise SystemExit("an adoption worked on a full disk")
        assert await store.read("page") == b"1" * 1000
        assert await store.read("other") is None
        assert await body_of(store, "six") == b"body"
        assert store.degraded
        assert len(files_in(where / "wheels")) == 1
        assert not list((where / "incoming").iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await store.write([Row("page", b"3" * 100_000, TAG)])
    await keep(store, "six", b"new body")
    assert store.degraded is None
    assert await body_of(store, "six") == b"new body"
    await store.close()
    store = await open_store(where)
    assert await store.read("page") == b"3" * 100_000
    assert await body_of(store, "six") == b"new body"
    assert store.stats().wheels.bytes == 8
    await store.close()
asyncio.run(main())
print("ok")
"""


def test_a_full_disk_fails_writes_and_nothing_else(tmp_path: Path) -> None:
    """Half writes leave no trace, reads go on, `degraded` says so, and all works once there is space."""
    with run(FULL, tmp_path / "cache") as worker:
        assert worker.communicate()[0] == "ok\n"


SMALL = """
import asyncio, os, sys
from pathlib import Path
from proxy.store import Row
from tests.keeping import TAG, body_of, files_in, keep, open_store
async def main():
    where = Path(sys.argv[1])
    disk = os.statvfs(where)
    store = await open_store(where / "cache", min_free=10**9)
    await store.write([Row("page", b"page", TAG)])
    for number in range(60):
        body = bytes([number]) * 300_000
        assert store.has_room(len(body))
        await keep(store, f"key{number}", body)
        assert await body_of(store, f"key{number}") == body
    assert store.degraded is None
    assert await store.entry("wheels", "key0") is None
    assert store.stats().wheels.bytes == sum(files_in(where / "cache/wheels").values())
    assert not store.has_room(disk.f_blocks * disk.f_frsize)
    assert await store.read("page") == b"page"
    await store.close()
asyncio.run(main())
print("ok")
"""


def test_the_floor_of_free_space(tmp_path: Path) -> None:
    """On a disk that is smaller than the limit, wheels are evicted for space, and pages never."""
    mount = 'mount -t tmpfs -o size=8m none "$1" && exec "$2" -c "$3" "$1"'
    command = ["unshare", "-Urm", "sh", "-c", mount, "sh", str(tmp_path), sys.executable, SMALL]
    try:
        subprocess.run(["unshare", "-Urm", "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no mount namespaces here")
    worker = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    assert worker.stdout == "ok\n"


async def test_a_vanished_disk(tmp_path: Path) -> None:
    """The directory is gone while the store is open: StoreFailed, nothing else, and a clean close."""
    store = await open_store(tmp_path / "cache")
    entry = await keep(store, "six", b"body")
    (tmp_path / "cache").rename(tmp_path / "gone")
    assert await store.stored("wheels", "six") is None
    with pytest.raises(StoreFailed):
        await store.spool()
    assert store.degraded is not None
    assert not store.has_room(1)
    await store.close()
    assert (tmp_path / "gone" / entry.body).name == NAME


async def test_ten_thousand_rows_start_at_once(tmp_path: Path) -> None:
    """The start does not depend on how much is kept: two seconds are promised."""
    store = await open_store(tmp_path / "cache")
    for start in range(0, 10_000, 500):
        await store.write([Row(f"key{number}", b"x" * 100, TAG) for number in range(start, start + 500)])
    await store.close()
    began = time.monotonic()
    store = await open_store(tmp_path / "cache")
    assert store.stats().responses.count == 10_000
    assert time.monotonic() - began < 2
    await store.close()
