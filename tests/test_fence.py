"""What was removed stays removed: marks, the fence on the store's thread, and every order of the two that can be."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxy import fence as fence_module
from proxy.core.patterns import FILES, Selection
from proxy.directory import RoomName
from proxy.errors import Forgotten
from proxy.fence import Fence, Named, name_of, page_named
from proxy.kept import Removed
from proxy.room import Room
from proxy.store import Row, Store
from tests.keeping import NAME, body_of, entry_of, files_in, open_store

SIX = Selection(project="six")
LOCATION = "files.example.com/six/six-1.16.0-py2.py3-none-any.whl"
PAGE: Named = ("response", "default", "six", None)
BODY = b"a wheel" * 100


def hides(fence: Fence, since: int) -> bool:
    """Whether the page of six is behind the fence."""
    return fence.hides(since, "response", "default", "six", None)


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Store]:
    """A store in that directory."""
    store = await open_store(directory)
    try:
        yield store
    finally:
        await store.close()


def row(key: str = "page|default|six", tag: str = "default/six") -> Row:
    """A row of a page."""
    return Row(key, b"value", tag)


async def adopt(store: Store, since: int | None, *, tag: str = "default/six", room: RoomName = "wheels") -> None:
    """Spool and adopt one body that was asked for after that mark."""
    spool = await store.spool()
    try:
        os.write(spool.fd, BODY)
        await store.adopt(room, spool, entry_of("key", BODY, tag=tag), NAME, since=since)
    finally:
        await store.discard(spool)


class Held:
    """The store's thread, held up by a job of its own until ``let_go``; what is asked meanwhile waits in its order."""

    def __init__(self, store: Store) -> None:
        self._go, self._there = threading.Event(), threading.Event()
        self._job = asyncio.ensure_future(store._workers.ask("wheels", self._wait))

    def _wait(self, _: Room) -> None:
        self._there.set()
        assert self._go.wait(20)

    async def reached(self) -> None:
        """Returns once the thread is held."""
        assert await asyncio.to_thread(self._there.wait, 20)

    async def let_go(self) -> None:
        """The thread goes on."""
        self._go.set()
        await self._job


# -- marks ---------------------------------------------------------------------------------------------------


def test_a_removal_hides_what_was_asked_for_before_it() -> None:
    """From the moment it begins, for those it covers, for ever; what is asked for after it is not hidden."""
    fence = Fence()
    before = fence.mark()
    assert not hides(fence, before)
    with fence.raised(SIX):
        assert hides(fence, before)
        assert not fence.hides(before, "response", "default", "seven", None)
    assert hides(fence, before)
    assert not hides(fence, fence.mark())


def test_a_mark_taken_during_a_removal_is_one_from_before_it() -> None:
    """Who took it may have read what is deleted a moment later; another removal that ends meanwhile changes nothing."""
    fence = Fence()
    with fence.raised(SIX):
        with fence.raised(Selection(project="seven")):
            pass
        during = fence.mark()
    assert hides(fence, during)
    assert fence.hides(during, "wheel", "default", "seven", "seven-1-py3-none-any.whl")
    assert not hides(fence, fence.mark())


def test_a_removal_that_fails_comes_down() -> None:
    """Or nothing of what it names would ever be kept again."""
    fence = Fence()
    with pytest.raises(OSError, match="disk"), fence.raised(SIX):
        raise OSError("disk")
    assert not hides(fence, fence.mark())


def test_of_removals_that_are_forgotten_everything_is_doubted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory is bounded: a mark from before its beginning counts as removed, later ones as they are."""
    monkeypatch.setattr(fence_module, "_REMEMBERED", 2)
    fence = Fence()
    marks = [fence.mark()]
    for project in ("one", "two", "three"):
        with fence.raised(Selection(project=project)):
            pass
        marks.append(fence.mark())
    assert [hides(fence, mark) for mark in marks] == [True, False, False, False]
    assert fence.hides(marks[1], "response", "default", "two", None)
    assert fence.hides(marks[2], "response", "default", "three", None)
    assert not fence.hides(marks[2], "response", "default", "two", None)


@pytest.mark.parametrize(
    ("room", "key", "tag", "filename", "named"),
    [
        ("wheels", f"file|default|{LOCATION}|", "default/six", f"ab/0123/{NAME}", ("wheel", "default", "six", NAME)),
        ("wheels", "file|default|x|", "default/six", "six-1.0.tar.gz", ("sdist", "default", "six", "six-1.0.tar.gz")),
        ("responses", "page|default|six", "default/six", "", PAGE),
        ("responses", "page|default|six|0ab|json|2", "default/six", "", PAGE),
        ("responses", "listing|default|six", "default/six", "", PAGE),
        ("responses", "json|default|six|1.0", "default/six", "", PAGE),
        ("responses", "projects|default", "default/", "ab/0123/projects", ("response", "default", "", None)),
        (
            "responses",
            f"metadata|default|{LOCATION}|sha256=00|11|gzip",
            "default/six",
            "",
            ("response", "default", "six", f"{NAME}.metadata"),
        ),
        ("mounts", "raw|builds|b%20c.txt?1|0f", "builds/", "ab/0/x", ("mount", "builds", "", "b%20c.txt?1")),
        ("mounts", "raw|builds|a|b|", "builds/", "ab/0123/body", ("mount", "builds", "", "a|b")),
        ("mounts", "raw|builds||", "builds/", "", ("mount", "builds", "", "")),
        ("responses", "variants|builds|a", "builds/", "", ("response", "builds", "", None)),
        ("responses", "metadata", "strange", "", ("response", "strange", "", None)),
    ],
)
def test_rows_have_names(room: RoomName, key: str, tag: str, filename: str, named: tuple[str | None, ...]) -> None:
    """A selection is asked about the same name whether a row is written, listed or removed."""
    assert name_of(room, key, tag, filename) == named


@pytest.mark.parametrize(
    "key", ["page|default|six", "page|default|six|whole", "listing|default|six", "json|default|six|"]
)
def test_keys_of_pages_have_names(key: str) -> None:
    """Also where no tag is at hand."""
    assert page_named(key) == PAGE
    assert page_named("projects|default") == ("response", "default", "", None)


# -- the store -----------------------------------------------------------------------------------------------

Write = Callable[[Store, int | None], Awaitable[None]]


async def write(store: Store, since: int | None) -> None:
    """One row of a page."""
    await store.write([row()], since=since)


@pytest.mark.parametrize("keep", [write, adopt])
async def test_what_was_removed_on_its_way_is_not_kept(tmp_path: Path, keep: Write) -> None:
    """Nothing of it is left anywhere, and nothing is wrong with the store."""
    async with opened(tmp_path) as store:
        since = store.mark()
        await store.inventory.remove(Selection())
        with pytest.raises(Forgotten):
            await keep(store, since)
        assert store.degraded is None
        stats = store.stats()
        assert (stats.wheels.count, stats.responses.count) == (0, 0)
        assert files_in(tmp_path / "wheels") == files_in(tmp_path / "incoming") == {}
        assert [path.name for path in (tmp_path / "wheels").iterdir() if path.is_dir()] == []


@pytest.mark.parametrize("keep", [write, adopt])
async def test_what_was_asked_for_after_a_removal_is_kept(tmp_path: Path, keep: Write) -> None:
    """And so is what no removal covers, what takes no mark, and what only a dry run named."""
    async with opened(tmp_path) as store:
        early = store.mark()
        await store.inventory.remove(Selection(project="seven"))
        await store.inventory.remove(Selection(), dry_run=True)
        await keep(store, early)
        await store.inventory.remove(SIX)
        assert (await store.read(row().key), await body_of(store, "key")) == (None, None)
        await keep(store, store.mark())
        await store.inventory.remove(SIX)
        await keep(store, None)
        stats = store.stats()
        assert stats.wheels.count + stats.responses.count == 1


async def test_one_row_that_was_removed_refuses_all_of_its_writing(tmp_path: Path) -> None:
    """All or nothing: the rows that would have been dropped stay, too."""
    async with opened(tmp_path) as store:
        other = row("page|default|seven", "default/seven")
        await store.write([other])
        since = store.mark()
        await store.inventory.remove(SIX)
        with pytest.raises(Forgotten):
            await store.write([row("another", "default/seven"), row()], drop=[other.key], since=since)
        assert await store.read(other.key) == b"value"
        assert store.stats().responses.count == 1


async def test_files_alone_may_be_removed(tmp_path: Path) -> None:
    """What a removal does not cover by its kind is kept, though it is the same project's."""
    async with opened(tmp_path) as store:
        since = store.mark()
        await store.inventory.remove(Selection("six", kinds=FILES))
        await write(store, since)
        with pytest.raises(Forgotten):
            await adopt(store, since)
        await adopt(store, since, tag="default/projects", room="responses")


@pytest.mark.parametrize("keep", [write, adopt])
async def test_a_commit_that_waits_while_the_fence_rises_is_refused(tmp_path: Path, keep: Write) -> None:
    """Its job was sent before the removal began, but it is the moment of the commit that counts."""
    async with opened(tmp_path) as store:
        held = Held(store)
        await held.reached()
        keeping = asyncio.ensure_future(keep(store, store.mark()))
        # Its file is linked, or the job is sent: all that is left is the commit.
        for _ in range(100):
            await asyncio.sleep(0)
        if keep is adopt:
            await placed(tmp_path)
        removing = asyncio.ensure_future(store.inventory.remove(Selection()))
        await asyncio.sleep(0)
        await held.let_go()
        removed = await removing
        with pytest.raises(Forgotten):
            await keeping
        assert removed.files == ()
        assert files_in(tmp_path / "wheels") == files_in(tmp_path / "incoming") == {}
        assert store.stats().responses.count == 0


async def placed(directory: Path) -> None:
    """Returns once a body has its name in wheels/."""
    for _ in range(2000):
        if files_in(directory / "wheels"):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("not within 20 s")


async def test_a_commit_before_the_fence_is_seen_by_the_scan(tmp_path: Path) -> None:
    """The check has passed, then the fence rises, then the row is committed: the scan comes after it, and finds it."""
    async with opened(tmp_path) as store:
        checked, go = threading.Event(), threading.Event()

        def commit(room: Room) -> None:
            checked.set()
            assert go.wait(20)
            room.write([row()], [])

        job = store.fence.checked(commit, store.mark(), [PAGE])
        committing = asyncio.ensure_future(store._workers.ask("responses", job))
        assert await asyncio.to_thread(checked.wait, 20)
        removing: asyncio.Future[Removed] = asyncio.ensure_future(store.inventory.remove(SIX))
        await asyncio.sleep(0)
        assert hides(store.fence, 0)
        go.set()
        await committing
        assert [kept.index for kept in (await removing).files] == ["default"]
        assert await store.read(row().key) is None


async def test_what_is_made_of_a_row_that_is_being_removed_is_refused(tmp_path: Path) -> None:
    """While the thread has not come to the scan a mark that is taken is no better than an older one."""
    async with opened(tmp_path) as store:
        await store.write([row()])
        held = Held(store)
        await held.reached()
        removing = asyncio.ensure_future(store.inventory.remove(SIX))
        await asyncio.sleep(0)
        since = store.mark()
        writing = asyncio.ensure_future(store.write([row("page|default|six|made")], since=since))
        await asyncio.sleep(0)
        await held.let_go()
        assert len((await removing).files) == 1
        with pytest.raises(Forgotten):
            await writing
        with pytest.raises(Forgotten):
            await store.write([row("page|default|six|made")], since=since)


@pytest.mark.parametrize("again", [False, True], ids=["in memory", "on disk"])
async def test_what_is_being_removed_is_not_found_any_more(tmp_path: Path, again: bool) -> None:
    """It may take seconds until its row goes. What came from the upstream meanwhile is not kept: after it an older one
    would be found again. A file is the same until it is gone, and what nobody removes stays."""
    async with opened(tmp_path) as store:
        await store.write([row(), row("page|default|seven", "default/seven"), row("odd", "odd")])
        await adopt(store, None, tag="default/seven")
        await adopt(store, None, room="mounts", tag="tree/")
    async with opened(tmp_path) as store:
        if not again:
            assert await store.read(row().key) == b"value"
        held = Held(store)
        await held.reached()
        removing = asyncio.ensure_future(store.inventory.remove(SIX))
        await asyncio.sleep(0)
        assert store.peek(row().key) is None
        reading = asyncio.gather(*map(store.read, (row().key, "page|default|seven", "odd")))
        await asyncio.sleep(0)
        await held.let_go()
        assert await reading == [None, b"value", b"value"]
        await removing
        await store.write([row()], since=store.mark())
        assert await store.read(row().key) == b"value"
        with store.fence.raised(Selection()):
            assert await asyncio.gather(*map(store.read, (row().key, "page|default|seven", "odd"))) == [None] * 3
            assert await store.entry("mounts", "key") is None
            assert await store.entry("wheels", "key") is not None


async def test_readers_of_a_removed_body_finish(tmp_path: Path) -> None:
    """Whoever has it open reads to its end; the disk has its space back when it is closed."""
    async with opened(tmp_path) as store:
        await adopt(store, store.mark())
        stored = await store.stored("wheels", "key")
        assert stored is not None
        begun = stored.handle.read(10)
        removed = await store.inventory.remove(Selection())
        assert (len(removed.files), removed.bytes) == (1, len(BODY))
        assert files_in(tmp_path / "wheels") == {}
        assert begun + stored.handle.read() == BODY
        stored.close()


async def test_a_new_head_over_a_removed_body_changes_nothing(tmp_path: Path) -> None:
    """An update needs no mark: it is over that very body, and no other will ever have its name."""
    async with opened(tmp_path) as store:
        await adopt(store, None)
        entry = await store.entry("wheels", "key")
        assert entry is not None
        await store.inventory.remove(Selection())
        await adopt(store, store.mark())
        assert not await store.update("wheels", "key", entry)
        again = await store.entry("wheels", "key")
        assert again is not None
        assert again.body != entry.body
