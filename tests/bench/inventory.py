"""A cache of 100,000 files: how long it takes to list, count and remove them, and who waits meanwhile.

The store is used as the server does, in this process. Beside the work two things are asked again and again: the event
loop for its next turn, and the store's one thread for a head that is not in memory, as a download does that begins.
"""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from proxy.core.messages import Entry, Head
from proxy.core.patterns import FILES, Selection
from proxy.disk import MODE_BINARY, MODE_RAW, seal
from proxy.entries import dump_entry
from proxy.store import Store
from tests.bench.figures import bound, show

FILES_KEPT = 100_000
PROJECTS = 2_000
_BODY = b"x"
_LIST_MOST = 2.0
_EVERY = 0.002
_HEADERS = (
    ("Content-Type", "application/octet-stream"),
    ("Content-Length", "1"),
    ("ETag", '"6b86b273ff34fce19d6b804eff5a3f57"'),
    ("Last-Modified", "Tue, 02 Jan 2024 00:00:00 GMT"),
    ("Cache-Control", "max-age=365000000, immutable, public"),
    ("Accept-Ranges", "bytes"),
    ("Date", "Tue, 02 Jan 2024 00:00:00 GMT"),
    ("X-Served-By", "cache-one, cache-two"),
)


def _wheels(room: Path, count: int) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    digest = hashlib.sha256(_BODY).hexdigest()
    for number in range(count):
        project = f"project-{number % PROJECTS}"
        name = f"{project.replace('-', '_')}-1.{number // PROJECTS}-py3-none-any.whl"
        if number % 10 == 0:
            name = f"{project}-1.{number // PROJECTS}.tar.gz"
        filename = f"{number % 256:02x}/{number:016x}/{name}"
        place = room / filename
        place.parent.mkdir(parents=True)
        place.write_bytes(_BODY)
        location = f"files.example.com/packages/{number:064x}/{name}"
        key, tag = f"file|main|{location}|sha256={digest}", f"main/{project}"
        head = Head(200, _HEADERS, 1.7e9, 1.7e9)
        entry = Entry(key, tag, f"https://{location}", head, f"wheels/{filename}", len(_BODY), digest, True)
        value = seal(dump_entry(entry), entry.key)
        rows.append((key, 1, 1.7e9 + number, None, 1.7e9, tag, len(_BODY), MODE_BINARY, filename, value))
    return rows


def _pages() -> list[tuple[object, ...]]:
    body = b"x" * 3_000
    keys = [(f"page|main|project-{number}|{'0' * 64}|json|2", f"main/project-{number}") for number in range(PROJECTS)]
    return [(key, 1, 1.7e9, None, 1.7e9, tag, len(body), MODE_RAW, None, seal(body, key)) for key, tag in keys]


def _fill(room: Path, rows: list[tuple[object, ...]]) -> None:
    connection = sqlite3.connect(room / "cache.db")
    with connection:
        columns = "key, raw, store_time, expire_time, access_time, tag, size, mode, filename, value"
        connection.executemany(f"INSERT INTO Cache ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    connection.close()


async def _late(ask: Callable[[], Awaitable[object]], times: list[float]) -> None:
    while True:
        began = time.perf_counter()
        await ask()
        times.append(1000 * (time.perf_counter() - began))


async def measured(
    store: Store, what: str, work: Awaitable[object], rest: tuple[float, float] | None = None
) -> tuple[float, float]:
    """One line: how long it took, and both lags at the 99th percentile in milliseconds, which it returns."""
    turns: list[float] = []
    heads: list[float] = []

    async def turn() -> None:
        await asyncio.sleep(_EVERY)

    async def head() -> None:
        await store.read(f"page|main|project-{len(heads) % PROJECTS}|{'0' * 64}|json|2")
        await asyncio.sleep(_EVERY)

    beside = [asyncio.create_task(_late(turn, turns)), asyncio.create_task(_late(head, heads))]
    began = time.perf_counter()
    await work
    took = time.perf_counter() - began
    for task in beside:
        task.cancel()
    await asyncio.gather(*beside, return_exceptions=True)
    late = (_high(turns), _high(heads))
    ratios = "" if rest is None else f" ({late[0] / rest[0]:.2f}x and {late[1] / rest[1]:.2f}x rest)"
    most = f"most {max(turns, default=0):.1f} and {max(heads, default=0):.1f} ms"
    show(f"{what:<34} {took:.2f} s; p99 of a turn {late[0]:.2f} ms, of a head {late[1]:.2f} ms{ratios}, {most}")
    return late


def _high(times: list[float]) -> float:
    return sorted(times)[int(len(times) * 0.99)] if times else 0.0


async def _listed(store: Store, selection: Selection) -> int:
    count = 0
    async for found in store.inventory.walk(selection):
        count += len(found.kept)
    return count


async def made(directory: Path, count: int = FILES_KEPT) -> None:
    """A cache directory of so many files, and a page for each of the bench's projects."""
    store = await _open(directory)
    await store.close()
    _fill(directory / "wheels", _wheels(directory / "wheels", count))
    _fill(directory / "responses", _pages())


async def _measure(directory: Path) -> None:
    await made(directory)
    store = await _open(directory)
    inventory = store.inventory
    sums = inventory.sums()
    assert sums.wheels.count + sums.sdists.count == FILES_KEPT
    files = Selection(kinds=FILES)
    rest = await measured(store, "at rest", asyncio.sleep(3))
    began = time.perf_counter()
    assert await _listed(store, files) == FILES_KEPT
    took = time.perf_counter() - began
    show(f"{'list, nothing beside':<34} {bound(took, _LIST_MOST, 's')}")
    for what, selection in (
        ("list", files),
        ("list, everything", Selection()),
        ("list, one name", Selection("project_7", kinds=FILES)),
        ("list, one project", Selection(project="project-7", kinds=FILES)),
    ):
        await measured(store, what, _listed(store, selection), rest)
    began = time.perf_counter()
    for _ in range(1000):
        inventory.sums()
    show(f"{'info':<34} {1000 * (time.perf_counter() - began):.2f} us, whatever is kept")
    await measured(store, "remove *, dry run", inventory.remove(Selection(), dry_run=True), rest)
    await measured(store, "remove one project", inventory.remove(Selection("project_7")), rest)
    await measured(store, "purge", inventory.remove(Selection()), rest)
    assert store.stats().wheels.count == store.stats().responses.count == 0
    await store.close()


async def _open(directory: Path) -> Store:
    # Next to no memory, so that every head is asked of the store's thread.
    most = 10**12
    store = await Store.open(
        directory, max_size=most, responses_max_size=most, mounts_max_size=most, min_free=0, memory=8
    )
    await store.swept()
    return store


def run(directory: Path) -> None:
    """All of it."""
    asyncio.run(_measure(directory / "cache"))
