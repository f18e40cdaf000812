"""100,000 cached files over HTTP: how long a list of them takes, and how long others wait meanwhile.

Lists are asked for by a process of their own, ``python -m tests.bench.lists PORT TOKEN COPY OFTEN``, which beside
each of them reads the same rows from a copy of the database and writes them as JSON, with the standard library and
nothing else. Another process downloads a cached wheel and cold pages, while lists come one after the other and while
none does.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.cold import Question, timed
from tests.bench.figures import Series, bound, report, show
from tests.bench.inventory import FILES_KEPT, made
from tests.bench.servers import HOST, Server, proxy
from tests.harness.fetch import fetch
from tests.harness.index import JSON_V1
from tests.harness.packages import wheel
from tests.harness.server import ROOT
from tests.harness.upstream import Upstream
from tests.harness.waiting import eventually

_ROUNDS = 4
_DOWNLOADS = 200
_PAGES = 40
_LISTS = 5
_LIST_MOST = 2.0
_WHEEL = wheel("known", padding=50_000)
_COLD = [f"cold-{number}" for number in range(2 * _ROUNDS * _PAGES)]
_FOR_PAGES = {"Accept": JSON_V1, "Accept-Encoding": "gzip"}
_ALL = f"/admin/cache/list?limit={FILES_KEPT}&kind=wheel&kind=sdist"


def listed(port: int, token: str) -> float:
    """Seconds that one list takes to its last byte."""
    began = time.perf_counter()
    connection = http.client.HTTPConnection(HOST, port)
    connection.request("GET", _ALL, headers={"Authorization": f"Bearer {token}"})
    answer = connection.getresponse()
    end, size = b"", 0
    while piece := answer.read1(2**20):
        end, size = (end + piece[-200:])[-200:], size + len(piece)
    connection.close()
    assert answer.status == 200
    assert b'],"cursor":' in end
    assert size > 300 * FILES_KEPT
    return time.perf_counter() - began


def dumped(copy: str) -> float:
    """Seconds that the rows of a copy take, read and written as they are."""
    began = time.perf_counter()
    connection = sqlite3.connect(f"file:{copy}?mode=ro&immutable=1", uri=True)
    columns = "key, tag, filename, size, store_time, access_time, CAST(substr(value, 5) AS TEXT)"
    rows = connection.execute(f"SELECT {columns} FROM Cache ORDER BY rowid")
    assert sum(len(json.dumps(row)) for row in rows) > 300 * FILES_KEPT
    connection.close()
    return time.perf_counter() - began


def main(port: str, token: str, copy: str, often: str) -> None:
    """So many lists, each with its like; with 0 lists alone, one after the other until stdin ends."""
    times: list[tuple[float, float]] = []
    ended = threading.Thread(target=sys.stdin.read, daemon=True)
    ended.start()
    print("asking", flush=True)
    while len(times) < int(often) or (often == "0" and ended.is_alive()):
        times.append((listed(int(port), token), dumped(copy) if often != "0" else 0.0))
    print(json.dumps(times))


@contextmanager
def lister(server: Server, token: str, copy: Path, often: int) -> Iterator[list[tuple[float, float]]]:
    """A process that asks for lists; its times are there at the end."""
    times: list[tuple[float, float]] = []
    command = [sys.executable, "-m", "tests.bench.lists", str(server.port), token, str(copy), str(often)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "asking\n"
        yield times
        said, _ = process.communicate() if not often else (process.stdout.read(), None)
        times += [(ours, beside) for ours, beside in json.loads(said)]


def _downloads(server: Server, upstream: Upstream, cold: Iterator[str]) -> tuple[list[float], list[float]]:
    """Milliseconds to the last byte of a cached wheel, many times, and of cold pages among them."""
    questions: list[Question] = []
    for number in range(_DOWNLOADS):
        questions.append((f"{server.url}/files/test/{upstream.location(_WHEEL)}", {}))
        if number % (_DOWNLOADS // _PAGES) == 0:
            questions.append((f"{server.url}/simple/{next(cold)}/", _FOR_PAGES))
    times = [1000 * last for _, last, _, _ in timed(questions)]
    pages = [number for number, (_, headers) in enumerate(questions) if headers]
    return [each for number, each in enumerate(times) if number not in pages], [times[number] for number in pages]


def _measure(server: Server, upstream: Upstream, token: str, copy: Path) -> None:
    with lister(server, token, copy, _LISTS) as both:
        pass
    ours, beside = (
        Series(name, values, "s")
        for name, values in zip(("list", "rows as JSON"), zip(*both, strict=True), strict=True)
    )
    report(f"list of {FILES_KEPT:,} over HTTP", ours, beside, bound(ours.median, _LIST_MOST, "s"))
    cold = iter(_COLD)
    rest: tuple[list[float], list[float]] = ([], [])
    busy: tuple[list[float], list[float]] = ([], [])
    lists: list[float] = []
    for _ in range(_ROUNDS):
        for found, values in zip(rest, _downloads(server, upstream, cold), strict=True):
            found += values
        with lister(server, token, copy, 0) as times:
            for found, values in zip(busy, _downloads(server, upstream, cold), strict=True):
                found += values
        lists += [each for each, _ in times]
    show(f"{len(lists)} lists meanwhile, {Series('each', lists, 's')}")
    for what, calm, during in zip(("cached wheel", "cold page"), rest, busy, strict=True):
        for share in (0.5, 0.99):
            report(f"{what} beside lists, p{100 * share:.0f}", _at(share, "lists", during), _at(share, "rest", calm))


def _idle(server: Server) -> bool:
    before = server.cpu()
    time.sleep(0.5)
    return server.cpu() - before < 0.02


def _at(share: float, name: str, times: list[float]) -> Series:
    return Series(name, [sorted(times)[int(len(times) * share)]], "ms")


def run(directory: Path) -> None:
    """All of it."""
    cache = directory / "proxy" / "cache"
    cache.parent.mkdir(parents=True)
    asyncio.run(made(cache))
    copy = shutil.copy(cache / "wheels" / "cache.db", directory / "copy.db")
    with Upstream(_WHEEL) as upstream:
        upstream.index.add(*(wheel(project) for project in _COLD))
        with proxy(directory / "proxy", upstream) as server:
            assert fetch(f"{server.url}/simple/known/").status == 200
            url = f"{server.url}/files/test/{upstream.location(_WHEEL)}"
            fetch(url)
            eventually(lambda: "hit" in fetch(url, method="HEAD").headers["cache-status"], "a hit")
            eventually(lambda: _idle(server), "the sweep is over", timeout=120.0)
            _measure(server, upstream, (cache / "admin.token").read_text().strip(), Path(copy))


if __name__ == "__main__":
    main(*sys.argv[1:])
