"""Scale on one machine: a cache of 100,000 files and 20,000 pages beside one of 100 files and 20 pages.

`generate` makes such a cache in about a minute. A real proxy fetches one project from a real upstream; its rows and
bodies are then written again under other names of the same length, each with its seal, into databases that the store
itself made. So whatever a version of the store keeps, a generated cache holds the same: of each project the page, its
listing, one rendition (gzip, JSON) and its wheels of some 1 KB. All of it is served without an upstream for as long
as the pages are fresh (`FRESH`).
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import secrets
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from statistics import median

from proxy.directory import RoomName
from proxy.disk import seal, unseal
from proxy.store import Store
from tests.bench.figures import Series, bound, report, show
from tests.bench.inventory import measured
from tests.bench.servers import HOST, Server, proxy
from tests.harness.fetch import fetch
from tests.harness.index import JSON_V1
from tests.harness.packages import wheel
from tests.harness.upstream import Upstream

FILES, PAGES = 100_000, 20_000
FEW_FILES, FEW_PAGES = 100, 20
FRESH = 600.0
"""Seconds for which generated pages are fresh: what the upstream says, from when they were generated."""
INDEX = "test"

_REPETITIONS = 7
_ASKED = 2_000
_START_MOST = {0: 0.8, FEW_FILES: 0.8, FILES: 1.5}
_LATENCY_MOST = 1.1
_ENOUGH = 10**12
_TEMPLATE = 0
_GZIP = b"\x1f\x8b"
_HEADERS = {"Accept": JSON_V1, "Accept-Encoding": "gzip"}
_COLUMNS = "key, raw, store_time, expire_time, access_time, tag, size, mode, filename, value"
_PLACEHOLDERS = ", ".join("?" * 10)

Columns = tuple[str, int, float, None, float, str, int, int, str | None, bytes]
"""One row, as in ``_COLUMNS``."""


@dataclass(frozen=True, slots=True)
class Generated:
    """What was made. ``files`` are the paths of one project's files on a server; its number stands in them."""

    count: int
    pages: int
    files: Sequence[str]

    def page(self, number: int) -> str:
        """The path of a project's page, from 0."""
        return f"/simple/{_name(number)}/"

    def file(self, number: int) -> str:
        """The path of a file, from 0."""
        project, which = divmod(number, len(self.files))
        return _renamed(self.files[which].encode(), project).decode()


def generate(directory: Path, files: int = FILES, pages: int = PAGES) -> Generated:
    """Make the cache directory ``directory``, which must not exist: so many files, spread over so many projects with a
    page each. Its pages belong to an index named `INDEX`."""
    most = max(1, -(-files // pages))
    with tempfile.TemporaryDirectory(prefix="pip-cache-proxy-template-") as scratch:
        links = _fetched(Path(scratch), most)
        asyncio.run(_emptied(directory))
        responses = _rows(Path(scratch) / "cache", "responses")
        _write(directory, "responses", (_clone(row, number) for number in range(pages) for row in responses))
        bodies = {_place(row): (Path(scratch) / "cache" / "wheels" / _place(row)) for row in _rows_of_files(scratch)}
        held = {place: path.read_bytes() for place, path in bodies.items()}
        _write(directory, "wheels", _files(directory / "wheels", _rows_of_files(scratch), held, files))
    return Generated(files, pages, links)


def _fetched(scratch: Path, files: int) -> list[str]:
    """Have a proxy fetch the project that all others are made of; the paths of its files, in the order of the page."""
    name = _name(_TEMPLATE)
    with (
        Upstream(*(wheel(name, f"1.{minor}") for minor in range(files))) as upstream,
        proxy(scratch, upstream) as server,
    ):
        page = fetch(f"{server.url}/simple/{name}/", _HEADERS)
        assert page.status == 200, page
        links = [each["url"].removeprefix("../..") for each in json.loads(page.decoded)["files"]]
        assert all(fetch(f"{server.url}{link}").status == 200 for link in links)
        # Rows are written behind what clients get; afterwards they are there to be copied.
        _await(
            lambda: len(_rows(scratch / "cache", "wheels")) == files and len(_rows(scratch / "cache", "responses")) > 2
        )
    return links


def _await(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until, "the proxy did not keep what it fetched"
        time.sleep(0.05)


def _rows(cache: Path, room: RoomName) -> list[Columns]:
    with closing(sqlite3.connect(cache / room / "cache.db")) as connection:
        return connection.execute(f"SELECT {_COLUMNS} FROM Cache ORDER BY rowid").fetchall()


def _rows_of_files(scratch: str) -> list[Columns]:
    return sorted(_rows(Path(scratch) / "cache", "wheels"), key=_place_name)


def _place(row: Columns) -> str:
    assert row[8] is not None
    return row[8]


def _place_name(row: Columns) -> str:
    return _place(row).rpartition("/")[2]


def _clone(row: Columns, number: int, place: tuple[bytes, bytes] = (b"", b"")) -> Columns:
    """A row of the template as that of another project; ``place`` is what its body's directory was, and is."""
    key, raw, stored, expires, used, tag, size, mode, filename, value = row
    value = unseal(value, key.encode())
    key, tag = (_renamed(each.encode(), number).decode() for each in (key, tag))
    begin = value.find(_GZIP) if filename is None else -1
    if begin >= 0:
        value = value[:begin] + gzip.compress(_renamed(gzip.decompress(value[begin:]), number), 1, mtime=0)
        size = len(value)
    else:
        value = _renamed(value.replace(*place), number)
    if filename is not None:
        filename = _renamed(filename.encode().replace(*place), number).decode()
    return key, raw, stored, expires, used, tag, size, mode, filename, seal(value, key)


def _files(room: Path, rows: Sequence[Columns], bodies: dict[str, bytes], count: int) -> Iterator[Columns]:
    for number in range(count):
        project, which = divmod(number, len(rows))
        row = rows[which]
        was = _place(row).rpartition("/")[0]
        now = f"{number % 256:02x}/{secrets.token_hex(8)}"
        clone = _clone(row, project, (was.encode(), now.encode()))
        path = f"{room}/{_place(clone)}"
        os.makedirs(os.path.dirname(path), mode=0o700)
        with open(path, "wb") as file:
            file.write(bodies[_place(row)])
        yield clone


async def _emptied(directory: Path) -> None:
    """Made by the store itself."""
    store = await _opened(directory)
    await store.close()


async def _opened(directory: Path, most: int = _ENOUGH) -> Store:
    store = await Store.open(
        directory, max_size=most, responses_max_size=_ENOUGH, mounts_max_size=_ENOUGH, min_free=0, ballast=0
    )
    await store.swept()
    return store


def _write(directory: Path, room: RoomName, rows: Iterable[Columns]) -> None:
    with closing(sqlite3.connect(directory / room / "cache.db")) as connection, connection:
        connection.executemany(f"INSERT INTO Cache ({_COLUMNS}) VALUES ({_PLACEHOLDERS})", rows)


def _name(number: int) -> str:
    return f"project-{number:06d}"


def _renamed(text: bytes, number: int) -> bytes:
    """What says the template's name, in both spellings, says another's."""
    return re.sub(rb"project([-_])%06d" % _TEMPLATE, rb"project\g<1>%06d" % number, text)


@dataclass(slots=True)
class Side:
    """One of the caches that are compared, and what was measured of it: seconds, MB, milliseconds."""

    directory: Path
    made: Generated | None
    started: list[float]
    idle: list[float]
    swept: list[float]
    cold: list[float]
    warm: list[float]

    @property
    def count(self) -> int:
        return 0 if self.made is None else self.made.count


def run(directory: Path) -> None:
    """Starts and hits with an empty cache, a small and a large one, interleaved; then the evictor."""
    sides = [Side(directory / str(files), None, [], [], [], [], []) for files in (0, FEW_FILES, FILES)]
    for side, (files, pages) in zip(sides[1:], ((FEW_FILES, FEW_PAGES), (FILES, PAGES)), strict=True):
        began = time.perf_counter()
        side.directory.mkdir(parents=True)
        side.made = generate(side.directory / "cache", files, pages)
        show(f"{f'made: {files:,} files, {pages:,} pages':<34} {time.perf_counter() - began:.1f} s")
    with Upstream(wheel("one")) as upstream:
        with proxy(directory / "first", upstream):
            pass  # from here on all is compiled
        for number in range(_REPETITIONS):
            for side in sides:
                with proxy(side.directory, upstream) as server:
                    _one(side, server, last=number == _REPETITIONS - 1)
    _report(sides)
    asyncio.run(_evict(sides[-1].directory / "cache"))


def _one(side: Side, server: Server, *, last: bool) -> None:
    side.started.append(server.first_answer)
    if side.made is not None:
        # While the sweep is at its work.
        side.cold += asked(server, [side.made.file(7 * number % side.made.count) for number in range(50)])
    if last:
        _at_rest(server)
        side.idle.append(server.rss() / 1e6)
        if side.made is not None:
            numbers = [7919 * number % side.made.count for number in range(_ASKED)]
            paths = [side.made.file(number) for number in numbers]
            asked(server, paths)
            side.warm += asked(server, paths)
            side.swept.append(server.rss() / 1e6)


def _at_rest(server: Server) -> None:
    """Wait until the sweep is over: the process uses next to no CPU for a second."""
    while True:
        before = server.cpu()
        time.sleep(1)
        if server.cpu() - before < 0.03:
            return


def asked(server: Server, paths: Sequence[str]) -> list[float]:
    """Milliseconds for each of these, one after the other on one connection."""
    times: list[float] = []
    with closing(HTTPConnection(HOST, server.port)) as connection:
        for path in paths:
            began = time.perf_counter()
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            times.append(1000 * (time.perf_counter() - began))
            assert answer.status == 200, (path, answer.status)
    return times


def _report(sides: Sequence[Side]) -> None:
    _, few, many = sides
    for side in sides:
        started = Series(f"{side.count:,} files", side.started, "s")
        show(f"{'start to first answer':<34} {started}", bound(started.median, _START_MOST[side.count], "s"))
        show(f"{'memory at rest, swept':<34} {side.count:,} files {side.idle[0]:.1f} MB")
    for what, ours, beside in (
        ("hit of a file, while swept", many.cold, few.cold),
        ("hit of a file", many.warm, few.warm),
    ):
        ratio = median(ours) / median(beside)
        left, right = Series(f"{many.count:,} files", ours, "ms"), Series(f"{few.count:,} files", beside, "ms")
        report(what, left, right, bound(ratio, _LATENCY_MOST, "times") if beside is few.warm else "")


async def _evict(directory: Path) -> None:
    """A tenth of the files, because the limit is lower than what is there."""
    store = await _opened(directory)
    held = store.stats().wheels.bytes
    await store.close()
    store = await _opened(directory, held)
    rest = await measured(store, "at rest", asyncio.sleep(2))
    store._limits["wheels"] = held - 1
    await measured(store, "evict a tenth", store._evictor.bring_down("wheels"), rest)
    show(f"{'':<34} {store.stats().wheels.evicted.count:,} files went")
    await store.close()
