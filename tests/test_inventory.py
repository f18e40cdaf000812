"""What the store tells of what it keeps, and what it takes away: sums, lists, cursors, removals."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from proxy import stock
from proxy.core.mounted import body_name, raw_key, raw_name
from proxy.core.patterns import FILES, MOUNTS, RESPONSES, Kind, Selection
from proxy.core.urls import METADATA_SUFFIX, normalise_project
from proxy.directory import ROOMS
from proxy.entries import dump_entry
from proxy.errors import StoreFailed
from proxy.fence import name_of
from proxy.kept import Cursor, Kept, Sum, Sums
from proxy.store import Row, Store
from tests.keeping import body_of, entry_of, files_in, keep, open_store, query

ROOT = Path(__file__).parents[1]
EVERYTHING = Selection()
WHEEL = "-py3-none-any.whl"
INDEXES = ("main", "main-b", "main0", "a")
COLUMNS = "key, raw, store_time, expire_time, access_time, tag, size, mode, filename, value"


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """A store with roomy limits."""
    opened = await open_store(tmp_path / "cache")
    yield opened
    await opened.close()


async def wheel(store: Store, project: str, version: str, *, size: int = 100, index: str = "main") -> Kept:
    """Keep a wheel, as a fill does; what the inventory should say of it but for times and path."""
    return await _body(store, index, project, version, WHEEL, size)


async def sdist(store: Store, project: str, version: str, *, size: int = 70, index: str = "main") -> Kept:
    """Keep an sdist."""
    return await _body(store, index, project, version, ".tar.gz", size)


async def raw(store: Store, rest: str, *, size: int = 15, mount: str = "main") -> Kept:
    """Keep what a mount answered."""
    key, name = raw_key(mount, rest, ""), body_name(rest)
    entry = await keep(store, key, b"x" * size, room="mounts", tag=f"{mount}/", name=name)
    kind: Kind = "mount"
    about = (kind, "raw", mount, "", None, raw_name(rest), size, entry.sha256, entry.url, entry.body)
    return Kept(*about, stored=0.0, last_used=0.0)


async def _body(store: Store, index: str, name: str, version: str, ending: str, size: int) -> Kept:
    filename, project = f"{name}-{version}{ending}", normalise_project(name)
    key = f"file|{index}|files.example.com/{filename}|sha256=00"
    entry = await keep(store, key, b"x" * size, tag=f"{index}/{project}", name=filename)
    kind: Kind = "wheel" if ending == WHEEL else "sdist"
    about = (kind, "file", index, project, version, filename, size, entry.sha256, entry.url, entry.body)
    return Kept(*about, stored=0.0, last_used=0.0)


async def listed(store: Store, selection: Selection, *, batch: int = 500) -> list[Kept]:
    """All of a walk."""
    return [kept async for found in store.inventory.walk(selection, batch=batch) for kept in found.kept]


async def cursors(store: Store, batch: int) -> list[Cursor]:
    """The places of all rows."""
    walk = store.inventory.walk(EVERYTHING, batch=batch)
    return [found.cursor(number) async for found in walk for number in range(len(found.kept))]


def undated(kept: Iterable[Kept]) -> list[Kept]:
    """Without their times."""
    return [each._replace(stored=0.0, last_used=0.0) for each in kept]


def names(kept: Iterable[Kept]) -> list[str | None]:
    """Their file names."""
    return [each.filename for each in kept]


def agree(store: Store) -> None:
    """The sums are those of the rows, and of the files on the disk."""
    sums = store.inventory.sums()
    wheels = files_in(store.directory / "wheels")
    for found, kind in ((sums.wheels, "wheel"), (sums.sdists, "sdist")):
        sizes = [size for path, size in wheels.items() if name_of("wheels", "", "", path)[0] == kind]
        assert found == Sum(len(sizes), sum(sizes)), kind
    ((count, size),) = query(store.directory / "responses", "SELECT count(*), coalesce(sum(size), 0) FROM Cache")
    assert sums.responses == Sum(count, size)
    ((rows, bytes_of_rows),) = query(store.directory / "wheels", "SELECT count(*), coalesce(sum(size), 0) FROM Cache")
    assert (rows, bytes_of_rows) == (len(wheels), sum(wheels.values()))
    mounts = files_in(store.directory / "mounts")
    assert sums.mounts == Sum(len(mounts), sum(mounts.values()))
    assert query(store.directory / "mounts", "SELECT count(*) FROM Cache") == [(len(mounts),)]


def nothing_left(directory: Path) -> None:
    """No row, no file, no directory."""
    for room in ROOMS:
        assert query(directory / room, "SELECT count(*) FROM Cache") == [(0,)]
        assert [path for path in (directory / room).iterdir() if not path.name.startswith("cache.db")] == []
    assert list((directory / "incoming").iterdir()) == []


async def fill(store: Store) -> None:
    """Some of everything: bodies in all rooms, heads, values."""
    for index in INDEXES:
        for project in ("six", "zope"):
            await wheel(store, project, "1.0", index=index, size=10)
            await wheel(store, project, "2.0", index=index, size=20)
            await sdist(store, project, "2.0", index=index, size=30)
            tag = f"{index}/{project}"
            page = entry_of(f"page|{index}|{project}", b"", tag=tag)
            await store.write([Row(page.key, dump_entry(page), tag), Row(f"{page.key}|v|json|2", b"x" * 40, tag)])
        await store.write([Row(f"projects|{index}", b"x" * 50, f"{index}/")])
        await raw(store, "a/six-1.0.tar.gz?page=1", mount=index)


def room_of(kept: Kept) -> str:
    """Where it lies; rooms are in the order of their names."""
    return {"mount": "mounts", "response": "responses"}.get(kept.kind, "wheels")


# --- sums


@pytest.mark.asyncio
async def test_sums_agree_with_the_disk_whatever_happens(tmp_path: Path) -> None:
    """Adoption, replacement by another size and by another kind, a new head, a removal, a lost body, eviction."""
    store = await open_store(tmp_path / "cache", max_size=4000)
    assert store.inventory.sums().wheels == store.inventory.sums().sdists == Sum(0, 0)
    for number in range(4):
        await wheel(store, "six", f"1.{number}")
        await sdist(store, "six", f"1.{number}")
    await keep(store, "other", b"x" * 10, name="OTHER-1.0-py3-none-any.WHL")
    assert store.inventory.sums().wheels == Sum(5, 410)
    assert store.inventory.sums().sdists == Sum(4, 280)
    agree(store)
    entry = await keep(store, "other", b"x" * 30, name="other-1.0-py3-none-any.whl")
    assert store.inventory.sums().wheels == Sum(5, 430)
    await store.update("wheels", "other", replace(entry, head=replace(entry.head, received_at=9.0)))
    agree(store)
    await keep(store, "other", b"x" * 50, name="other-1.0.zip")
    assert (store.inventory.sums().wheels, store.inventory.sums().sdists) == (Sum(4, 400), Sum(5, 330))
    lost = await keep(store, "lost", b"x" * 30, name="lost-1.0-py3-none-any.whl")
    os.unlink(store.directory / lost.body)
    assert await store.stored("wheels", "lost") is None
    await store.remove("wheels", ["other"])
    agree(store)
    for number in range(8):
        await wheel(store, "large", f"1.{number}", size=900)
        agree(store)
    await store.close()


@pytest.mark.asyncio
async def test_a_directory_that_was_written_before_is_counted_once(tmp_path: Path) -> None:
    """The database of an older version has neither table nor triggers; afterwards it counts by itself."""
    store = await open_store(tmp_path / "cache")
    await fill(store)
    await store.close()
    for trigger in ("insert", "update", "delete"):
        query(tmp_path / "cache/wheels", f"DROP TRIGGER Room_wheels_{trigger}")
    query(tmp_path / "cache/wheels", "DROP TABLE Room_wheels")
    store = await open_store(tmp_path / "cache")
    agree(store)
    await wheel(store, "six", "3.0")
    await store.remove("wheels", ["file|main|files.example.com/six-1.0-py3-none-any.whl|sha256=00"])
    agree(store)
    await store.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("damage", ["UPDATE Room_wheels SET count = -3, bytes = 99", "DELETE FROM Room_wheels"])
async def test_damaged_sums_are_put_right(tmp_path: Path, damage: str) -> None:
    """By the sweep at the next start, and by a purge."""
    store = await open_store(tmp_path / "cache")
    await fill(store)
    query(tmp_path / "cache/wheels", damage)
    await wheel(store, "six", "3.0")
    sums = store.inventory.sums()
    assert min(sums.wheels.count, sums.wheels.bytes, sums.sdists.count, sums.sdists.bytes) >= 0
    await store.close()
    store = await open_store(tmp_path / "cache")
    agree(store)
    query(tmp_path / "cache/wheels", damage)
    await store.inventory.remove(EVERYTHING)
    assert store.inventory.sums().wheels == store.inventory.sums().sdists == Sum(0, 0)
    await store.close()


WORK = """
import asyncio, random, sys
from pathlib import Path
from proxy.core.patterns import Selection
from tests.keeping import open_store
from tests.test_inventory import raw, sdist, wheel
choose = random.Random(int(sys.argv[2]))
async def one(store):
    project, version = choose.choice(["six", "zope"]), f"1.{choose.randrange(9)}"
    match choose.randrange(7):
        case 0: await store.inventory.remove(Selection(project))
        case 1: await store.inventory.remove(Selection())
        case 6: await raw(store, f"{project}/{version}", size=choose.randrange(5000))
        case 2: await sdist(store, project, version, size=choose.randrange(5000))
        case _: await wheel(store, project, version, size=choose.randrange(5000))
async def main():
    store = await open_store(Path(sys.argv[1]), max_size=40_000, mounts_max_size=20_000)
    while True:
        await asyncio.gather(*(one(store) for _ in range(4)))
        print("done", flush=True)
asyncio.run(main())
"""


@pytest.mark.asyncio
async def test_sums_agree_with_the_disk_after_a_kill(tmp_path: Path) -> None:
    """In the middle of adoptions, evictions and removals, and the sweep after it."""
    choose = random.Random(4)
    for cycle in range(5):
        command = [sys.executable, "-c", WORK, str(tmp_path / "cache"), str(cycle)]
        with subprocess.Popen(  # noqa: ASYNC220 - the test has nothing else to do
            command, cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as worker:
            assert worker.stdout is not None
            for _ in range(choose.randrange(1, 15)):
                assert worker.stdout.readline() == "done\n"
            worker.send_signal(signal.SIGKILL)
        store = await open_store(tmp_path / "cache", max_size=40_000, mounts_max_size=20_000)
        agree(store)
        assert sum(each.size for each in await listed(store, Selection(kinds=FILES))) == store.stats().wheels.bytes
        await store.close()


# --- what is told of a row


@pytest.mark.asyncio
async def test_what_is_told_of_a_file(store: Store) -> None:
    """All of it: who, what, how large, which, from where, lying where, since when, used when."""
    before = time.time()
    kept = [await wheel(store, "six", "1.0"), await sdist(store, "zope.interface", "2.0")]
    found = await listed(store, Selection(kinds=FILES))
    assert undated(found) == kept
    assert all(before <= each.stored <= each.last_used <= time.time() for each in found)
    assert all((store.directory / str(each.path)).stat().st_size == each.size for each in found)


@pytest.mark.asyncio
async def test_what_is_told_of_responses(store: Store) -> None:
    """Every row is one, whatever it holds: its first word, and what an entry in it says."""
    tag, location = "main/six", "files.example.com/a%20b/six-1.0-py3-none-any.whl"
    page = replace(entry_of("page|main|six", b"p"), url="https://example.com/simple/six/?token=secret", tag=tag)
    rows = {
        page.key: dump_entry(page),
        f"{page.key}|version|json|2": b"x" * 20_000,
        "listing|main|six": b"l",
        "json|main|six|1.0": dump_entry(replace(entry_of("json|main|six|1.0", b""), url="", sha256="")),
        "json|main|six|swapped": dump_entry(page),
        f"metadata|main|{location}||sha|gzip": b"coded",
        "strange": b"",
    }
    await store.write([Row(key, value, tag) for key, value in rows.items()])
    await store.write([Row("projects|main", b"list", "main/")])
    metadata = await keep(
        store, f"metadata|main|{location}|sha256=00", b"meta", room="responses", tag=tag, name="any.metadata"
    )
    found = await listed(store, Selection(kinds=RESPONSES))
    assert [(each.what, each.project) for each in found] == [
        *(("page", "six") for _ in range(2)),
        ("listing", "six"),
        *(("json", "six") for _ in range(2)),
        ("metadata", "six"),
        ("strange", "six"),
        ("projects", ""),
        ("metadata", "six"),
    ]
    assert {each.kind for each in found} == {"response"}
    assert {each.index for each in found} == {"main"}
    head, rendition, _, _, swapped, coded, _, _, meta = found
    assert (head.url, head.sha256, head.path) == ("https://example.com/simple/six/", page.sha256, None)
    assert (rendition.url, rendition.sha256, rendition.filename, rendition.version) == (None, None, None, None)
    assert (swapped.url, swapped.sha256) == (None, None)
    assert meta.filename == coded.filename == f"six-1.0-py3-none-any.whl{METADATA_SUFFIX}"
    assert (meta.version, meta.path, coded.path) == ("1.0", metadata.body, None)
    assert (meta.url, meta.sha256) == (metadata.url, metadata.sha256)
    sums = store.inventory.sums()
    assert Sum(len(found), sum(each.size for each in found)) == sums.responses
    agree(store)


@pytest.mark.asyncio
async def test_a_use_that_is_only_in_memory_counts(store: Store) -> None:
    """Access times are written now and then; what is told knows of them before, meanwhile and after."""
    await wheel(store, "six", "1.0")
    (first,) = await listed(store, EVERYTHING)
    used = f"UPDATE Cache SET store_time = {first.stored - 100}, access_time = {first.last_used - 100}"
    query(store.directory / "wheels", used)
    (old,) = await listed(store, EVERYTHING)
    assert old.last_used == pytest.approx(first.last_used - 100)
    now = time.time()
    assert await body_of(store, "file|main|files.example.com/six-1.0-py3-none-any.whl|sha256=00")
    (before,) = await listed(store, EVERYTHING)
    flushing = asyncio.create_task(store.flush())
    await asyncio.sleep(0)
    (meanwhile,) = await listed(store, EVERYTHING)
    await flushing
    (after,) = await listed(store, EVERYTHING)
    assert now <= before.last_used == meanwhile.last_used == after.last_used
    assert before.stored == old.stored


# --- order and cursors


@pytest.mark.asyncio
async def test_the_order_is_that_of_rooms_and_rows(store: Store) -> None:
    """However many rows are looked at at once; and each place is in it. Where tags are asked for they come first."""
    await fill(store)
    all_of_it = await listed(store, EVERYTHING)
    assert list(map(room_of, all_of_it)) == sorted(map(room_of, all_of_it))
    for some in (RESPONSES, FILES):
        tags = [f"{each.index}/{each.project}" for each in await listed(store, Selection(index="main", kinds=some))]
        assert tags == sorted(tags)
    assert len(all_of_it) == 4 * (2 * 5 + 2)
    for batch in (1, 2, 7):
        assert await listed(store, EVERYTHING, batch=batch) == all_of_it
    places = await cursors(store, 500)
    assert places == sorted(places, key=lambda place: (place.room, place.rowid))
    for number, place in enumerate(places):
        rest, cursor = await store.inventory.page(EVERYTHING, place, 100)
        assert (rest, cursor) == (all_of_it[number + 1 :], None)


@pytest.mark.asyncio
@pytest.mark.parametrize("limit", [1, 2, 3, 12, 47, 48, 49])
@pytest.mark.parametrize(
    "selection", [EVERYTHING, Selection("six"), Selection(project="zope"), Selection(index="main")]
)
async def test_pages_of_any_size_make_the_list(tmp_path: Path, limit: int, selection: Selection) -> None:
    """One after the other, each full but the last, and no empty one at the end."""
    store = await open_store(tmp_path / "cache")
    await fill(store)
    pages: list[list[Kept]] = []
    cursor: Cursor | None = None
    while not pages or cursor is not None:
        page, cursor = await store.inventory.page(selection, cursor, limit)
        pages.append(page)
    assert [each for page in pages for each in page] == await listed(store, selection)
    assert all(len(page) == limit for page in pages[:-1])
    assert 0 < len(pages[-1]) <= limit
    await store.close()


@pytest.mark.asyncio
async def test_a_cursor_is_good_while_rows_come_and_go(store: Store) -> None:
    """What stayed is named once, in front of the cursor and behind it, whether its own row went or not."""
    choose = random.Random(2)
    order = choose.sample(range(30), 30)
    stay = {(await wheel(store, f"p{number}", "1.0")).filename for number in order}
    for number in range(30):
        await wheel(store, f"p{number}", "0.1")
    seen: list[str | None] = []
    cursor: Cursor | None = None
    while True:
        page, cursor = await store.inventory.page(EVERYTHING, cursor, 4)
        seen += names(page)
        if cursor is None:
            break
        for number in choose.sample(range(30), 5):
            await store.inventory.remove(Selection(project=f"p{number}", version="0.1"))
        await store.inventory.remove(Selection(project=page[-1].project, version="0.1"))
        for number in choose.sample(range(30), 4):
            await wheel(store, f"p{number}", "0.1")
        # The same row again, with another body.
        await wheel(store, "p7", "1.0", size=choose.randrange(50))
    assert sorted(str(name) for name in seen if name in stay) == sorted(map(str, stay))


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "cursor",
    [
        Cursor("responses", "\u20ac/x", -(2**70)),
        Cursor("wheels", "main/six", 2**70),
        Cursor("wheels", "\x00", 0),
        Cursor("nowhere", "main/six", 1),
    ],
)
async def test_a_cursor_of_nobody_is_a_place_all_the_same(store: Store, cursor: Cursor) -> None:
    """It comes from a client: anything may stand in it, and what is behind it is listed."""
    await fill(store)
    page, _ = await store.inventory.page(EVERYTHING, cursor, 1000)
    everything = await listed(store, EVERYTHING)
    assert page == everything[len(everything) - len(page) :]


# --- filters


@pytest.mark.asyncio
async def test_filters_find_what_a_look_at_everything_finds(store: Store) -> None:
    """Those that use the order of tags, with neighbours whose names begin alike; from any cursor on."""
    await fill(store)
    await store.write([Row("slashes", b"x", "main/six/more")])
    everything = await listed(store, EVERYTHING)
    assert len(everything) == 49
    for index in (None, *INDEXES, "mai", "main1", ""):
        for project in (None, "six", "zope", "", "none"):
            selection = Selection(index=index, project=project)
            wanted = [each for each in everything if index in (None, each.index) and project in (None, each.project)]
            if selection != EVERYTHING:
                wanted.sort(key=lambda each: (room_of(each), f"{each.index}/{each.project}"))
            assert await listed(store, selection, batch=2) == wanted, (index, project)
            if len(wanted) > 1:
                first, cursor = await store.inventory.page(selection, None, len(wanted) // 2)
                rest, _ = await store.inventory.page(selection, cursor, 1000)
                assert first + rest == wanted


# --- removal


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "selection",
    [
        Selection("six", kinds=FILES),
        Selection("six"),
        Selection("six-1*", kinds=FILES),
        Selection(version="2.0"),
        Selection(index="main"),
        Selection(index="main", project="zope", kinds=RESPONSES),
        Selection("nothing"),
        EVERYTHING,
        Selection(kinds=FILES),
        Selection(kinds=RESPONSES),
        Selection(kinds=MOUNTS),
        Selection("six-*.gz", kinds=MOUNTS),
        Selection(index="a", kinds=MOUNTS),
    ],
)
async def test_a_removal_takes_what_the_list_shows(tmp_path: Path, selection: Selection) -> None:
    """All of it and nothing else; its bytes are those that came free, its directories those that are gone."""
    store = await open_store(tmp_path / "cache")
    await fill(store)
    there, shown = await listed(store, EVERYTHING), await listed(store, selection)
    before, directories = store.inventory.sums(), directories_in(store)
    foretold = await store.inventory.remove(selection, dry_run=True)
    assert (list(foretold.files), foretold.directories) == (shown, 0)
    assert await listed(store, EVERYTHING) == there
    assert store.inventory.removed == Sum(0, 0)
    removed = await store.inventory.remove(selection)
    assert removed.files == foretold.files
    assert removed.bytes == foretold.bytes == sum(each.size for each in shown)
    assert removed.bytes == whole(before) - whole(store.inventory.sums())
    assert store.inventory.removed == Sum(len(shown), removed.bytes)
    assert removed.directories == directories - directories_in(store)
    assert await listed(store, EVERYTHING) == [each for each in there if each not in shown]
    assert not any((store.directory / each.path).exists() for each in shown if each.path is not None)
    agree(store)
    await store.close()
    store = await open_store(tmp_path / "cache")
    agree(store)
    assert len(await listed(store, EVERYTHING)) == len(there) - len(shown)
    await store.close()


def directories_in(store: Store) -> int:
    """Directories that hold bodies."""
    return sum(path.is_dir() for room in ROOMS for path in (store.directory / room).rglob("*"))


def whole(sums: object) -> int:
    """Bytes of all kinds."""
    return sum(getattr(sums, kind).bytes for kind in ("wheels", "sdists", "responses", "mounts"))


@pytest.mark.asyncio
async def test_a_purge_leaves_nothing_and_readers_finish(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """More rows than a step has, steps that may take no time at all, and bodies that are open: those in both rooms."""
    monkeypatch.setattr(stock, "SECONDS", 0.0)
    for number in range(450):
        await store.write([Row(f"page|main|p{number}", b"x" * 100, f"main/p{number}")])
    await fill(store)
    await asyncio.gather(*(wheel(store, "many", f"1.{number}") for number in range(250)))
    await keep(store, "projects|main", b"list", room="responses", tag="main/", name="projects")
    key = "file|main|files.example.com/six-1.0-py3-none-any.whl|sha256=00"
    readers = [await store.stored("wheels", key), await store.stored("responses", "projects|main")]
    before = whole(store.inventory.sums())
    removed = await store.inventory.remove(EVERYTHING)
    assert (len(removed.files), removed.bytes) == (450 + 48 + 250, before)
    assert store.inventory.sums() == Sums(Sum(0, 0), Sum(0, 0), Sum(0, 0), Sum(0, 0))
    nothing_left(store.directory)
    read = [reader.handle.read() for reader in readers if reader is not None]
    assert read == [b"x" * 10, b"list"]
    for reader in readers:
        assert reader is not None
        reader.close()
    assert await store.stored("wheels", key) is None
    assert await store.read("page|main|p1") is None


@pytest.mark.asyncio
async def test_a_row_that_was_replaced_since_it_was_seen_stays(store: Store) -> None:
    """What is deleted is what was looked at: a newer body under the same key and row is another one."""
    await wheel(store, "six", "1.0")
    await wheel(store, "six", "2.0")
    ask = store._workers.ask
    seen = await ask("wheels", lambda room: stock.rows_behind(room, (b"", stock.FIRST), None, 10))
    await wheel(store, "six", "1.0", size=5)
    assert await ask("wheels", lambda room: stock.take(room, seen)) == [False, True]
    assert await ask("wheels", lambda room: stock.take(room, seen)) == [False, False]
    (left,) = await listed(store, EVERYTHING)
    assert (left.version, left.size) == ("1.0", 5)
    agree(store)


@pytest.mark.asyncio
async def test_a_cancelled_removal_leaves_nothing_half_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever its caller left: every row has its body, every body its row, and what is left can be removed."""
    monkeypatch.setattr(stock, "SECONDS", 0.0)  # a row for each job
    store = await open_store(tmp_path / "cache")
    left = 0
    for taken in (0, 1, 2, 5, 30):
        await asyncio.gather(*(wheel(store, f"p{number}", "1.0", size=number) for number in range(40)))
        await store.write([Row(f"page|main|p{number}", b"x", f"main/p{number}") for number in range(10)])
        already = store.inventory.removed.count
        removal = asyncio.create_task(store.inventory.remove(EVERYTHING))
        while store.inventory.removed.count < already + taken and not removal.done():  # noqa: ASYNC110 - no event
            await asyncio.sleep(0)
        removal.cancel()
        await asyncio.wait([removal])
        await store.close()  # waits for the threads
        agree(store)
        left += len(files_in(tmp_path / "cache/wheels"))
        store = await open_store(tmp_path / "cache")
        agree(store)
        await store.inventory.remove(EVERYTHING)
        nothing_left(store.directory)
    assert left >= 4 * 20
    await store.close()


# --- rows that we did not write

STRANGE: tuple[tuple[object, ...], ...] = (
    ("page|main|big", 1, 1.0, None, 1.0, "main/big", "text", 1, None, b"x"),
    ("page|main|null", 1, 1.0, None, 1.0, "main/null", None, 1, None, b"x"),
    ("page|main|negative", 1, 1.0, None, 1.0, "main/negative", -5, 1, None, b"x"),
    (b"blob", 0, 1.0, None, 1.0, "main/blob", 5, 4, None, b"\x80\x04."),
    ("page|main|notag", 1, 1.0, None, 1.0, None, 5, 1, None, b"x"),
    ("page|main|blobtag", 1, 1.0, None, 1.0, b"main/six", 5, 1, None, b"x"),
    ("page|main|numbertag", 1, 1.0, None, 1.0, 7, 5, 1, None, b"x"),
    ("page|main|notime", 1, None, None, None, "main/notime", 5, 1, None, b"x"),
    ("page|main|texttime", 1, "yesterday", None, "now", "main/texttime", 5, 1, None, b"x"),
    ("page|main|late", 1, 9e99, None, 9e99, "main/late", 5, 1, None, b"x"),
    ("metadata", 1, 1.0, None, 1.0, "", 5, 1, None, b"x"),
    ("page|main|novalue", 1, 1.0, None, 1.0, "main/novalue", 5, 1, None, None),
    ("page|main|outside", 1, 1.0, None, 1.0, "main/outside", 5, 2, "../../VERSION", b"x"),
    ("page|main|unsealed", 1, 1.0, None, 1.0, "main/unsealed", 5, 2, "00/0123456789abcdef/x.whl", b'1234["entry/1",'),
    ("file|main|a.whl", 1, 1.0, None, 1.0, "main/a", 5, 2, "00/0123456789abcdef/a-1-py3-none-any.whl", b"x"),
)


def plant(directory: Path) -> None:
    """Put them into all rooms, and one whose texts hold flipped bits."""
    for room in ROOMS:
        for row in STRANGE:
            query(directory / room, f"INSERT INTO Cache ({COLUMNS}) VALUES ({', '.join('?' * 10)})", *row)
        flipped = "CAST(x'6d61696eff2f80' AS TEXT)"
        query(
            directory / room,
            f"INSERT INTO Cache ({COLUMNS}) VALUES ({flipped}, 1, 1.0, NULL, 1.0, {flipped}, 1, 2, {flipped}, x'00')",
        )


@pytest.mark.asyncio
@pytest.mark.parametrize("before", [False, True])
async def test_rows_that_we_did_not_write_stop_nobody(tmp_path: Path, before: bool) -> None:
    """They are listed as far as anything can be told of them, and a purge leaves nothing of them."""
    store = await open_store(tmp_path / "cache")
    await fill(store)
    if before:
        await store.close()
        plant(tmp_path / "cache")
        store = await open_store(tmp_path / "cache")
    else:
        plant(tmp_path / "cache")
    found = await listed(store, EVERYTHING, batch=2)
    assert sum(each.project in ("six", "zope") for each in found) == 40
    assert all(each.size >= 0 and 0 <= each.stored < 253_402_300_800 for each in found)
    places = await cursors(store, 3)
    assert len(places) == len(set(places)) == len(found)
    assert (len(found) > 60) is not before  # the sweep has been there
    for project in ("six", "texttime", "none"):
        await store.inventory.remove(Selection(project=project))
    removed = await store.inventory.remove(EVERYTHING)
    assert len(removed.files) >= 24
    nothing_left(tmp_path / "cache")
    assert (tmp_path / "cache/VERSION").exists()
    assert whole(store.inventory.sums()) == 0
    await wheel(store, "six", "1.0")
    agree(store)
    await store.close()


@pytest.mark.asyncio
async def test_a_closed_store_has_no_inventory(tmp_path: Path) -> None:
    """It fails as everything else there does."""
    store = await open_store(tmp_path / "cache")
    await store.close()
    with pytest.raises(StoreFailed):
        await listed(store, EVERYTHING)
    with pytest.raises(StoreFailed):
        await store.inventory.page(Selection(project="six"), None, 1)
    with pytest.raises(StoreFailed):
        await store.inventory.remove(EVERYTHING)
