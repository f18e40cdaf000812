"""What is cached: requests per second, and per second of CPU, against aiohttp at its simplest with the same bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.bench.figures import Series, report, show
from tests.bench.load import Result
from tests.bench.servers import HOST, Server, plain, proxy
from tests.harness.fetch import Fetched, fetch
from tests.harness.index import JSON_V1
from tests.harness.packages import Distribution, blob, wheel
from tests.harness.server import ROOT
from tests.harness.upstream import Upstream
from tests.harness.waiting import eventually

_REPETITIONS = 5
_SECONDS = 1.5
_FILES_ON_PAGE = 100  # about 10 KB once compressed
_CODINGS = ("gzip", "zstd")
_INDEX = "test"


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to ask both servers for. ``status`` is the only one that counts as an answer."""

    name: str
    path: str
    beside: str
    headers: tuple[str, ...] = ()
    connections: int = 16
    status: int = 200
    megabytes: bool = False


def run(directory: Path) -> None:
    """Every case, interleaved."""
    listed = [wheel("page", f"1.{minor}") for minor in range(_FILES_ON_PAGE)]
    small, big = wheel("small", padding=50_000), blob("big", size=200 * 10**6)
    with Upstream(*listed, small, big) as upstream, proxy(directory / "proxy", upstream) as ours:
        (directory / "plain").mkdir()
        pages = [fetch(f"{ours.url}/simple/page/", _page_headers(coding)) for coding in _CODINGS]
        for coding, page in zip(_CODINGS, pages, strict=True):
            (directory / "plain" / f"page.{coding}").write_bytes(page.body)
        for file in (small, big):
            _warm(directory, ours, upstream, file)
        with plain(directory / "plain") as beside:
            again = _page_case(_CODINGS[-1], pages[-1], pages[-1].headers["etag"])
            for case in [*map(_page_case, _CODINGS, pages), again, *_cases(upstream, small, big)]:
                _compare(case, ours, beside)
        now, most = ours.rss() / 10**6, ours.peak_rss() / 10**6
        show(f"{'memory, loaded':<34} {'':8}  proxy {now:.0f} MB, at most {most:.0f} MB")


def _page_headers(coding: str) -> dict[str, str]:
    return {"Accept": JSON_V1, "Accept-Encoding": coding}


def _page_case(coding: str, page: Fetched, etag: str | None = None) -> Case:
    fields = _page_headers(coding) | ({"If-None-Match": etag} if etag is not None else {})
    headers = tuple(f"{name}: {value}" for name, value in fields.items())
    name = f"page, {len(page.body) / 1000:.0f} KB {coding}" if etag is None else "its 304"
    return Case(name, "/simple/page/", f"/page/{coding}", headers, status=200 if etag is None else 304)


def _cases(upstream: Upstream, small: Distribution, big: Distribution) -> list[Case]:
    return [
        Case(f"wheel, {small.size / 1000:.0f} KB", *_paths(upstream, small)),
        Case("wheel, 200 MB, 4 connections", *_paths(upstream, big), connections=4, megabytes=True),
    ]


def _paths(upstream: Upstream, file: Distribution) -> tuple[str, str]:
    return f"/files/{_INDEX}/{upstream.location(file)}", f"/files/{file.filename}"


def _warm(directory: Path, ours: Server, upstream: Upstream, file: Distribution) -> None:
    """Have the file in the proxy's store, and a copy where the other server looks."""
    fetch(f"{ours.url}/simple/{file.project}/")
    url = ours.url + _paths(upstream, file)[0]
    fetch(url)
    eventually(lambda: fetch(url, method="HEAD").headers["cache-status"].startswith("pip-cache-proxy; hit"), "a hit")
    with (directory / "plain" / file.filename).open("wb") as copy:
        for piece in file.body.read(0, file.size):
            copy.write(piece)


def _compare(case: Case, ours: Server, beside: Server) -> None:
    rates: dict[str, list[float]] = {"proxy": [], "aiohttp": []}
    per_cpu: dict[str, list[float]] = {"proxy": [], "aiohttp": []}
    slowest: dict[str, list[float]] = {"proxy": [], "aiohttp": []}
    for _ in range(_REPETITIONS):
        for name, server, path in (("proxy", ours, case.path), ("aiohttp", beside, case.beside)):
            before = server.cpu()
            result = _load(case, server, path)
            cpu = max(server.cpu() - before, 0.01)
            done = result.received / 10**6 if case.megabytes else result.requests
            rates[name].append(done / result.seconds)
            per_cpu[name].append(done / cpu)
            slowest[name].append(result.p99)
    counted = "MB" if case.megabytes else "req"
    for what, values, unit in (
        (case.name, rates, f"{counted}/s"),
        ("  the same per second of its CPU", per_cpu, f"{counted}/cpu-s"),
        ("  p99", slowest, "ms"),
    ):
        first, second = (Series(name, each, unit) for name, each in values.items())
        report(what, first, second)


def _load(case: Case, server: Server, path: str) -> Result:
    words = [HOST, server.port, path, case.connections, _SECONDS, *case.headers]
    command = [sys.executable, "-m", "tests.bench.load", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    result = Result(**json.loads(done.stdout))
    assert result.statuses == {str(case.status): result.requests}, result
    return result
