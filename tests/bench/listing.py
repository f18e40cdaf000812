"""The project list of 700,000 projects: how late the event loop is, and what memory it takes, while the list comes.

The lag is seen from outside, by a process of its own: how long ``/healthz`` and a small warm page take, asked one after
the other every few milliseconds, at rest and while a list is fetched, made, and sent.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tests.bench.figures import MIB, bound, show
from tests.bench.servers import Server, proxy
from tests.harness.behaviours import Answer
from tests.harness.fetch import fetch
from tests.harness.index import JSON_V1
from tests.harness.packages import wheel
from tests.harness.server import ROOT
from tests.harness.upstream import Upstream
from tests.harness.waiting import eventually

PROJECTS = 700_000
_LAG_MOST = 50.0
_MEMORY_MOST = 32.0
_EVERY = 0.005
_OFTEN = 10
_CROWD = 12
_HTML = "text/html"
_FORMS = [(accept, coding) for accept in (JSON_V1, _HTML) for coding in ("gzip", "zstd", "identity")]


def listing() -> bytes:
    """As PyPI writes it: 37 MB, names that do not pack to nothing."""
    digests = (hashlib.blake2b(b"%d" % number, digest_size=7).hexdigest() for number in range(PROJECTS))
    entries = ",".join(f'{{"_last-serial":{int(each[:7], 16) % 30_000_000},"name":"p-{each}"}}' for each in digests)
    return f'{{"meta":{{"_last-serial":30000000,"api-version":"1.4"}},"projects":[{entries}]}}'.encode()


def scripted(upstream: Upstream, body: bytes, media_type: str, coding: str) -> None:
    """The upstream's answer to the next request for the list, stale at once."""
    headers = {"Content-Type": media_type, "Cache-Control": "max-age=600"}
    if coding:
        headers["Content-Encoding"] = coding
    without = ("ETag", "Last-Modified") if coding else ("ETag", "Last-Modified", "Content-Encoding")
    upstream.script("/simple/", Answer(status=200, body=body, headers=headers, without=without))


class Probe:
    """A context manager: asks small things all the time, from a process of its own. ``times`` are milliseconds."""

    def __init__(self, port: int) -> None:
        self._command = [sys.executable, "-m", "tests.bench.listing", str(port)]
        self.times: list[float] = []

    def __enter__(self) -> Probe:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "asking\n"
        return self

    def __exit__(self, *reason: object) -> None:
        said, _ = self._process.communicate()
        self.times = sorted(json.loads(said.splitlines()[-1]))

    def at(self, share: float) -> float:
        """The time that so large a share of the questions took at most."""
        return self.times[min(len(self.times) - 1, int(len(self.times) * share))]


async def asking(port: int) -> list[float]:
    """Ask every few milliseconds until stdin ends; how long each answer took, in milliseconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    heads = [b"GET /healthz HTTP/1.1\r\n", b"GET /simple/small/ HTTP/1.1\r\nAccept: " + JSON_V1.encode() + b"\r\n"]
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    times: list[float] = []
    told = False
    while not ended.done():
        began = time.perf_counter()
        writer.write(heads[len(times) % len(heads)] + b"Host: x\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        await reader.readexactly(length)
        times.append(1000 * (time.perf_counter() - began))
        if not told:
            told = True
            print("asking", flush=True)
        await asyncio.sleep(_EVERY)
    return times


def measured(server: Server, what: str, idle: int, work: Callable[[], object]) -> None:
    """One line: lag and memory while that work goes on."""
    began = time.perf_counter()
    with Probe(server.port) as probe:
        work()
        took = time.perf_counter() - began
    grown, late = (server.peak_rss() - idle) / MIB, probe.at(0.99)
    seen = f"p50 {probe.at(0.5):.2f}, most {probe.times[-1]:.1f} ms, n={len(probe.times)}; {took:.2f} s"
    bounds = f"{bound(late, _LAG_MOST, 'ms')}; memory {bound(grown, _MEMORY_MOST, 'MiB')}"
    show(f"{what:<34} lag p99 {late:.2f} ms, {seen}; {bounds}")


def _measure(server: Server) -> None:
    small = f"{server.url}/simple/small/"
    eventually(lambda: fetch(small, {"Accept": JSON_V1}).hit, "it is kept")
    idle = server.rss()
    measured(server, "at rest", idle, lambda: time.sleep(3))
    for accept, coding in _FORMS:
        form = f"{'json' if accept == JSON_V1 else 'html'} {coding}"
        made = "fetched" if (accept, coding) == _FORMS[0] else "made"
        measured(server, f"{form}, {made}", idle, partial(_taken, server, accept, coding))
        eventually(partial(_kept, server, accept, coding), "it is kept")
        measured(server, f"{form}, stored, {_OFTEN} times", idle, partial(_taken, server, accept, coding, _OFTEN))
    with ThreadPoolExecutor(_CROWD) as pool:
        crowd = [partial(_taken, server, *_FORMS[number % len(_FORMS)]) for number in range(_CROWD)]
        measured(server, f"{_CROWD} clients at once", idle, lambda: [job.result() for job in map(pool.submit, crowd)])


def _taken(server: Server, accept: str, coding: str, often: int = 1) -> None:
    for _ in range(often):
        got = fetch(f"{server.url}/simple/", {"Accept": accept, "Accept-Encoding": coding}, timeout=120.0)
        assert (got.status, got.complete) == (200, True)


def _kept(server: Server, accept: str, coding: str) -> bool:
    got = fetch(f"{server.url}/simple/", {"Accept": accept, "Accept-Encoding": coding}, "HEAD")
    return "content-length" in got.headers


def run(directory: Path) -> None:
    """All of it: an upstream that speaks JSON and gzip, as PyPI does, and one that knows neither."""
    body = listing()
    names = (project["name"] for project in json.loads(body)["projects"])
    page = "".join(f'<a href="/simple/{name}/">{name}</a>\n' for name in names)
    html = f"<!DOCTYPE html><html><title>Simple index</title><body>{page}</body></html>".encode()
    for name, sent, media_type, coding in (
        ("json", gzip.compress(body, 6), JSON_V1, "gzip"),
        ("html", html, _HTML, ""),
    ):
        with Upstream() as upstream:
            upstream.index.add(wheel("small"))
            scripted(upstream, sent, media_type, coding)
            with proxy(directory / name, upstream) as server:
                show(f"--- from {name}{' and gzip' if coding else ''}, {len(sent) / 10**6:.0f} MB")
                _measure(server)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(asking(int(sys.argv[1])))))
