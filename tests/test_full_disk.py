"""The store on a disk with not a byte left: what is removed goes, and what is not stays."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.core.patterns import Selection
from proxy.store import Row
from tests.conftest import missing
from tests.harness.server import ROOT
from tests.harness.smalldisk import SmallDisk
from tests.keeping import keep, open_store

MIB = 2**20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """An empty filesystem of 8 MiB."""
    if what := SmallDisk.missing():
        missing(what)
    with SmallDisk(tmp_path / "disk", 8 * MIB) as made:
        yield made


def run(disk: SmallDisk, script: str, *arguments: object) -> str:
    """What a script says that runs in there."""
    command = [*disk.prefix(ROOT), sys.executable, "-c", SHARED + script, str(disk.path), *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=40)
    return done.stdout


SHARED = """
import asyncio, os, sys
from pathlib import Path
from proxy.core.patterns import Selection
from proxy.errors import StoreFailed
from proxy.room import Room
from proxy.store import Row, Store
from tests.keeping import body_of, files_in, keep, open_store
disk = Path(sys.argv[1])
where = disk / "cache"
def free():
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize
def fill():
    with open(disk / "other", "ab", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size + free())
    assert free() == 0
def taken(top):
    return sum(path.lstat().st_blocks * 512 for path in top.rglob("*"))
async def pages(store, project, number, size):
    for each in range(number):
        await store.write([Row(f"page|test|{project}{each}", os.urandom(size), f"test/{project}{each}")])
async def wheels(store, project, number, size):
    for each in range(number):
        name = f"{project}{each}-1-py3-none-any.whl"
        key = f"file|test|files.example.com/{name}|sha256|00"
        await keep(store, key, os.urandom(size), tag=f"test/{project}{each}", name=name)
async def mounts(store, name, number, size):
    for each in range(number):
        body = os.urandom(size)
        await keep(store, f"raw|files|{name}{each}|", body, tag="files/", name=f"{name}{each}", room="mounts")
async def full(store):
    fill()
    try:
        for _ in range(1000):
            await store.write([Row("page|test|more", os.urandom(20_000), "test/more")])
    except StoreFailed: pass
    else: raise SystemExit("the disk is not full")
    fill()
    assert store.degraded == "the disk is full"
def whole(sums):
    return sums.responses.bytes + sums.wheels.bytes + sums.mounts.bytes
def main(script):
    asyncio.run(script())
    print("ok")
"""

REMOVE = """
ballast, restarted, kinds = int(sys.argv[2]), sys.argv[3] == "restarted", sys.argv[4]
def held():
    path = where / "ballast"
    return path.exists() and path.stat().st_size == min(ballast, os.statvfs(disk).f_blocks * 4096 // 16)
async def remove(store, pattern):
    fill()
    before = store.inventory.sums()
    removed = await store.inventory.remove(Selection(pattern))
    sums = store.inventory.sums()
    assert whole(sums) == whole(before) - removed.bytes
    assert sums.wheels.bytes == sum(files_in(where / "wheels").values())
    assert sums.mounts.bytes == sum(files_in(where / "mounts").values())
    assert not list((where / "incoming").iterdir())
    # What two small files leave can be taken whole by the ballast and a frame in each log.
    assert free() > 0 or held()
    assert store.degraded is None, store.degraded
    return removed.files
async def script():
    options = {"ballast": ballast, "min_free": 0}
    store = await open_store(where, **options)
    # Few rows: their pages are still in the log, and the database has no place for them.
    if "pages" in kinds:
        await pages(store, "gone", 20, 3000)
        await pages(store, "stays", 5, 3000)
        await pages(store, "gonebig", 2, 400_000)
    if "wheels" in kinds:
        await wheels(store, "gone", 5, 5000)
        await wheels(store, "stays", 2, 5000)
    if "mounts" in kinds:
        await mounts(store, "gone", 5, 5000)
        await mounts(store, "stays", 2, 5000)
    await full(store)
    if restarted:
        await store.close()
        fill()
        store = await open_store(where, **options)
    gone = await remove(store, "gone*")
    assert len(gone) == 22 * ("pages" in kinds) + 5 * ("wheels" in kinds) + 5 * ("mounts" in kinds)
    assert all((each.project or each.filename).startswith("gone") for each in gone)
    for each in range(5 * ("pages" in kinds)):
        assert len(await store.read(f"page|test|stays{each}")) == 3000
    for each in range(2 * ("wheels" in kinds)):
        name = f"stays{each}-1-py3-none-any.whl"
        assert len(await body_of(store, f"file|test|files.example.com/{name}|sha256|00")) == 5000
    for each in range(2 * ("mounts" in kinds)):
        assert len(await body_of(store, f"raw|files|stays{each}|", "mounts")) == 5000
    assert await store.read("page|test|gone0") is None
    await remove(store, "*")
    assert whole(store.inventory.sums()) == 0
    assert not [each for room in ("wheels", "mounts") for each in (where / room).iterdir() if each.is_dir()]
    assert taken(where / "wheels") + taken(where / "responses") + taken(where / "mounts") < 450_000
    (disk / "other").unlink()
    await pages(store, "again", 3, 3000)
    await wheels(store, "again", 3, 3000)
    await mounts(store, "again", 3, 3000)
    assert store.degraded is None
    assert all(room.logged for room in store._workers.rooms.values())
    assert held() if ballast else not (where / "ballast").exists()
    after = store.inventory.sums()
    await store.close()
    store = await open_store(where, **options)
    assert store.inventory.sums() == after
    assert len(await store.read("page|test|again2")) == 3000
    await store.close()
main(script)
"""


@pytest.mark.parametrize("kinds", ["pages", "wheels", "mounts", "pages+wheels+mounts"])
@pytest.mark.parametrize("when", ["running", "restarted"])
@pytest.mark.parametrize("ballast", [0, 16 * MIB])
def test_what_is_removed_goes(disk: SmallDisk, ballast: int, when: str, kinds: str) -> None:
    """Rows and bodies go on a disk with no space at all, with a ballast and without, by the process that ran as it
    filled up and by one that starts on it; the rest stays until all goes, and all works again after that."""
    assert run(disk, REMOVE, ballast, when, kinds) == "ok\n"


GROWN = """
async def script():
    store = await open_store(where)
    # Far more than its log usually has: the database has no place for it when the disk fills up right now.
    await pages(store, "gone", 1, 3_000_000)
    await full(store)
    removed = await store.inventory.remove(Selection("*"))
    assert removed.bytes >= 3_000_000
    assert free() > 3_000_000
    (disk / "other").unlink()
    await pages(store, "again", 3, 3000)
    await store.close()
main(script)
"""


def test_a_log_that_the_database_has_no_place_for(disk: SmallDisk) -> None:
    """What could only be deleted by growing goes all the same."""
    assert run(disk, GROWN) == "ok\n"


EVICT = """
async def script():
    store = await open_store(where, ballast=2**24)
    await wheels(store, "old", 20, 50_000)
    await store.write([Row("page|test|page", b"page", "test/page")])
    assert (where / "ballast").stat().st_size == 2**19
    fill()
    assert store.has_room(300_000)
    while free() < 300_000:
        await asyncio.sleep(0.01)
    await wheels(store, "new", 1, 100_000)
    name = "new0-1-py3-none-any.whl"
    assert len(await body_of(store, f"file|test|files.example.com/{name}|sha256|00")) == 100_000
    assert await store.read("page|test|page") == b"page"
    assert store.stats().wheels.count < 21
    assert (where / "ballast").stat().st_size == 2**19
    await store.close()
main(script)
"""


def test_eviction_on_a_full_disk(disk: SmallDisk) -> None:
    """It frees what the next file needs, and the ballast that it took for that."""
    assert run(disk, EVICT) == "ok\n"


@pytest.mark.asyncio
async def test_disk_usage_after_a_purge(tmp_path: Path) -> None:
    """The databases shrink, the logs are cut, and no directory is left of thousands of rows and hundreds of files."""
    cache = tmp_path / "cache"
    store = await open_store(cache, ballast=MIB)
    for number in range(0, 3000, 100):
        keys = [f"page|test|project{each}" for each in range(number, number + 100)]
        await store.write([Row(key, os.urandom(2000), f"test/{key.rpartition('|')[2]}") for key in keys])
    for number in range(300):
        await keep(store, f"file|test|files.example.com/{number}|sha256|00", b"x" * 10_000)
    assert taken(cache) > 9 * MIB
    removed = await store.inventory.remove(Selection())
    shards = {each.path[: len("wheels/xx")] for each in removed.files if each.path}
    assert (len(removed.files), removed.directories) == (3300, 300 + len(shards))
    assert taken(cache) - taken(cache / "ballast") < 300_000
    assert taken(cache / "ballast") >= MIB
    assert {path.name for path in (cache / "wheels").iterdir()} <= {"cache.db", "cache.db-wal", "cache.db-shm"}
    assert not any((cache / "incoming").iterdir())
    await store.close()


def taken(top: Path) -> int:
    """Bytes that a file, or all below a directory, takes of the disk."""
    return sum(path.lstat().st_blocks * 512 for path in (top, *top.rglob("*")))
