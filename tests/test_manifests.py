"""What pages listed: the wall of rule 1, kept in the store and decoded in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from proxy import manifests as module
from proxy.core.simple import Listed, dump_listing, load_listing
from proxy.core.urls import listing_key
from proxy.manifests import Manifests, manifest_of
from proxy.room import Row
from proxy.store import Store
from tests.keeping import open_store


def listed(name: str, url: str | None = None, **hashes: str) -> Listed:
    """One file of a page."""
    return Listed(name, url or f"https://Example.com/p/{name}", hashes, 10)


def put(known: Manifests, index: str, project: str, files: Sequence[Listed]) -> Row:
    """Take a page's listing, as the look at the page does."""
    return known.put(index, project, manifest_of(files), dump_listing(files))


OLD, NEW = listed("six-1.0.tar.gz", sha256="aa"), listed("six-1.1+a.tar.gz", sha256="bb")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """A store with roomy limits."""
    opened = await open_store(tmp_path / "cache")
    yield opened
    await opened.close()


async def test_by_location(store: Store) -> None:
    """A listing is found under the normalised location of each file; others know nothing of it."""
    known = Manifests(store)
    assert await known.of("main", "six") is None
    put(known, "main", "six", (OLD, NEW))
    assert await known.of("main", "six") == {
        "example.com/p/six-1.0.tar.gz": OLD,
        "example.com/p/six-1.1%2Ba.tar.gz": NEW,
    }
    assert await known.of("extra", "six") is None
    assert await known.of("main", "seven") is None


async def test_a_restart_remembers(store: Store) -> None:
    """The row that ``put`` returns is all that is needed later."""
    row = put(Manifests(store), "main", "six", (OLD, NEW))
    assert load_listing(row.value) == (OLD, NEW)
    assert row.tag == "main/six"
    await store.write([row])
    later = await Manifests(store).of("main", "six")
    assert later is not None
    assert list(later.values()) == [OLD, NEW]


async def test_a_new_page_replaces_the_old(store: Store) -> None:
    """What a page no longer lists is not listed; a page without files is a listing, too."""
    known = Manifests(store)
    await store.write([put(known, "main", "six", (OLD, NEW))])
    put(known, "main", "six", (NEW,))
    found = await known.of("main", "six")
    assert found is not None
    assert list(found.values()) == [NEW]
    put(known, "main", "six", ())
    assert await known.of("main", "six") == {}


async def test_of_two_spellings_the_first_counts(store: Store) -> None:
    """A page that lists one location twice has said first what the file must be."""
    first = listed("a.whl", "https://example.com/a%2Bb.whl", sha256="aa")
    second = listed("a.whl", "https://EXAMPLE.com:443/a+b.whl?x=1", sha256="bb")
    known = Manifests(store)
    put(known, "main", "a", (first, second))
    assert await known.of("main", "a") == {"example.com/a%2Bb.whl": first}


@pytest.mark.parametrize("garbage", [b"", b"{}", b"[[]]", b"\xff", b"[1]"])
async def test_garbage_is_unknown(store: Store, garbage: bytes) -> None:
    """A row that does not decode is as good as none: the page is asked for again."""
    await store.write([Row(listing_key("main", "six"), garbage, "main/six")])
    assert await Manifests(store).of("main", "six") is None


async def test_a_file_without_a_place_does_not_hide_the_others(store: Store) -> None:
    """A listing written when other URLs were taken is still a listing."""
    rows = dump_listing([listed("x", "ftp://example.com/x"), OLD, listed("y", "https://example.com:port/y")])
    await store.write([Row(listing_key("main", "six"), rows, "main/six")])
    assert await Manifests(store).of("main", "six") == {"example.com/p/six-1.0.tar.gz": OLD}


async def test_a_large_listing(store: Store) -> None:
    """One that is decoded in a thread is the same."""
    files = [listed(f"six-{number}.tar.gz", sha256="aa" * 32) for number in range(1000)]
    await store.write([put(Manifests(store), "main", "six", files)])
    found = await Manifests(store).of("main", "six")
    assert found is not None
    assert list(found.values()) == files


async def test_a_store_that_fails_knows_nothing(tmp_path: Path) -> None:
    """Rule 8: what is in memory still counts, what is not is unknown, and nothing is raised."""
    store = await open_store(tmp_path / "cache")
    known = Manifests(store)
    put(known, "main", "six", (OLD,))
    await store.close()
    assert await known.of("main", "six") is not None
    assert await known.of("main", "seven") is None


async def test_an_older_listing_never_replaces_a_newer_one(store: Store) -> None:
    """The page that arrives while the stored listing is being read wins."""
    await store.write([put(Manifests(store), "main", "six", (OLD,))])
    # As after a restart: nothing of it in memory, so the read takes turns of the loop.
    await store.close()
    store = await open_store(store.directory)
    known = Manifests(store)
    reading = asyncio.create_task(known.of("main", "six"))
    await asyncio.sleep(0)
    assert not reading.done()
    put(known, "main", "six", (NEW,))
    for found in (await reading, await known.of("main", "six")):
        assert found is not None
        assert list(found.values()) == [NEW]
    await store.close()


async def test_memory_is_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The listings used least recently are decoded again from the store; the last one always fits."""
    monkeypatch.setattr(module, "_FILES_IN_MEMORY", 4)
    known = Manifests(store)
    rows = [put(known, "main", project, (listed(f"{project}-1.whl"), listed(f"{project}-2.whl"))) for project in "ab"]
    assert await known.of("main", "a") is not None
    put(known, "main", "c", (listed("c-1.whl"),))
    # Never written, so only memory could know it.
    assert await known.of("main", "b") is None
    assert await known.of("main", "a") is not None
    await store.write(rows)
    assert await known.of("main", "b") is not None
    put(known, "main", "large", [listed(f"{number}.whl") for number in range(10)])
    assert await known.of("main", "c") is None
    found = await known.of("main", "large")
    assert found is not None
    assert len(found) == 10
