"""The lines of the table: the proxy, an ideal nginx and aiohttp at its simplest, one after the other, again and again.

wrk has the last core, the proxy and aiohttp the first; nginx's two workers may use both, so nginx is never held back.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.bench import ideal, pressure
from tests.bench.listings import BIG, SMALL, listing
from tests.bench.servers import Server, plain, proxy
from tests.bench.verdicts import NGINX, OURS, STATIC, Bound, Line
from tests.harness.fetch import fetch
from tests.harness.index import JSON_V1
from tests.harness.packages import Distribution, blob
from tests.harness.server import ROOT
from tests.harness.upstream import Upstream

PAGE = {"Accept": JSON_V1, "Accept-Encoding": "gzip"}
_CORE = max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
_CLIENTS = 50
_DELAY = 0.030
Values = defaultdict[str, list[float]]
Failed = subprocess.CalledProcessError
"""What a load generator ends with when an answer was wrong."""


@dataclass(frozen=True, slots=True)
class Length:
    """How long it may take."""

    repetitions: int
    seconds: float
    big: int  # bytes of the large file


@dataclass(frozen=True, slots=True)
class Case:
    """One warm question: ``paths`` is where each side has it, ``limits`` the must and the reach over nginx."""

    name: str
    paths: Mapping[str, str]
    limits: tuple[float, float]
    connections: int = 16
    revalidates: bool = False
    differing: pressure.Differing = ""
    floor: bool = False
    file: bool = False


def warm(scratch: Path, length: Length) -> list[Line]:
    """What is cached, by rate, by p99 and by CPU. One repetition is all sides of all cases."""
    files = [blob("small", size=50_000), blob("middle", size=2 * 10**6), blob("large", size=length.big)]
    with ExitStack() as running:
        upstream = running.enter_context(Upstream(*files))
        for name, count in (("page", SMALL), ("bigpage", BIG)):
            upstream.script(f"/simple/{name}/", listing(name, count, upstream.files_url))
        ours = running.enter_context(proxy(scratch / "proxy", upstream))
        sides: dict[str, Server | ideal.Ideal] = {OURS: ours}
        _floor(scratch / "plain", ours, files)
        sides[STATIC] = running.enter_context(plain(scratch / "plain"))
        if ideal.installed():
            sides[NGINX] = running.enter_context(ideal.Ideal(scratch / "nginx", upstream.origin, upstream.files_url))
        for file in files:
            fetch(f"{ours.url}/simple/{file.project}/", PAGE)
        for server in (ours, sides[STATIC]):
            _pin(server)
        return [line for group in _rates(scratch, length, sides, _cases(upstream, files)) for line in group]


def _cases(upstream: Upstream, files: list[Distribution]) -> list[Case]:
    small, middle, large = ({**_files(upstream, file), STATIC: f"/files/{file.filename}"} for file in files)
    page = {OURS: "/simple/page/", NGINX: "/simple/page/", STATIC: "/page/gzip"}
    big = {OURS: "/simple/bigpage/", NGINX: "/simple/bigpage/"}
    return [
        Case("10 KB page, gzip, c16", page, (1.0, 1.5), floor=True),
        Case("its 304", page, (1.0, 1.5), revalidates=True, floor=True),
        Case("10 KB page, X-Request-Id differs", page, (0.4, 0.6), differing="id"),
        Case("10 KB page, User-Agent differs", page, (0.4, 0.6), differing="agent"),
        Case("2.9 MB page, gzip, c16", big, (0.85, 1.0)),
        Case("50 KB wheel, c16", small, (0.6, 1.0), file=True),
        Case("2 MB wheel, c16", middle, (0.85, 1.0), file=True),
        Case(f"{large_size(files)} MB wheel, c4", large, (0.85, 1.0), connections=4, file=True),
    ]


def large_size(files: list[Distribution]) -> int:
    """Of the last one, in MB."""
    return files[-1].size // 10**6


def _rates(
    scratch: Path, length: Length, sides: Mapping[str, Server | ideal.Ideal], cases: list[Case]
) -> list[tuple[Line, Line]]:
    rate, per_cpu, slow = ([Values(list) for _ in cases] for _ in range(3))
    for _ in range(length.repetitions):
        for number, case in enumerate(cases):
            for name in sides.keys() & case.paths.keys():
                url, fields, size = _asked(case, sides[name].url + case.paths[name])
                used = sides[name].cpu()
                how = pressure.How(case.connections, length.seconds, _CORE, case.differing)
                loaded = pressure.load(url, fields, how, scratch, size)
                used = max(sides[name].cpu() - used, 0.01)
                rate[number][name].append(loaded.requests / loaded.seconds)
                per_cpu[number][name].append(loaded.requests / used)
                slow[number][name].append(loaded.p99)
    return [_pair(case, rate[each], per_cpu[each], slow[each]) for each, case in enumerate(cases)]


def _pair(case: Case, rate: Values, per_cpu: Values, slow: Values) -> tuple[Line, Line]:
    must, reach = (Bound(limit) for limit in case.limits)
    musts = (must, Bound(3.0, STATIC)) if case.floor else (must,)
    p99 = Line(f"{case.name}: p99", "ms", False, (Bound(1.0),), (Bound(0.7),), slow)
    return Line(case.name, "req/s", True, musts, (reach,), rate, per_cpu), p99


def _asked(case: Case, url: str) -> tuple[str, dict[str, str], int]:
    """What to ask, and how long the right body is: seen once by a client that reads all."""
    fields = {} if case.file else dict(PAGE)
    first = fetch(url, fields)
    assert first.status == 200, (url, first.status)
    assert first.complete, url
    if not case.revalidates:
        return url, fields, len(first.body)
    fields["If-None-Match"] = first.headers["etag"]
    assert fetch(url, fields).status == 304, url
    return url, fields, 0


def cold(scratch: Path, length: Length) -> list[Line]:
    """What nobody has asked for yet, beside the upstream itself: how much later the last byte is there."""
    small, big = Values(list), Values(list)
    with ExitStack() as running:
        upstream = running.enter_context(Upstream())
        sides = _cold_sides(running, scratch, upstream)
        for name in ("known", *(f"{kind}{number}" for kind in ("s", "b") for number in range(length.repetitions * 2))):
            count = BIG if name.startswith("b") else SMALL
            upstream.script(f"/simple/{name}/", listing(name, count, upstream.files_url, _DELAY))
        for base in sides.values():
            _burst(f"{base}/simple/known/", 0, PAGE, 1)  # what is loaded on demand is loaded, connections stand
        for number in range(length.repetitions * 2):
            for kind, into in (("s", small), ("b", big)):
                took = {name: _burst(f"{base}/simple/{kind}{number}/", 0, PAGE, 1)[1] for name, base in sides.items()}
                direct = took.pop("direct")
                for name, each in took.items():
                    into[name].append(1000 * (each - direct))
    return [
        Line("cold small page, added", "ms", False, (Bound(2.5, None),), (Bound(1.5, None),), small),
        Line("cold 2.9 MB page, added", "ms", False, (Bound(0.6),), (Bound(20, None),), big),
    ]


def bursts(scratch: Path, length: Length) -> list[Line]:
    """50 clients at once on one cold file, and on one cold big page; each repetition has its own."""
    first, wall, page, gets = (Values(list) for _ in range(4))
    with ExitStack() as running:
        upstream = running.enter_context(Upstream())
        sides = _cold_sides(running, scratch, upstream)
        del sides["direct"]
        for number in range(length.repetitions):
            file = blob(f"f{number}", size=length.big, seed=number)
            upstream.index.add(file)
            upstream.script(f"/simple/p{number}/", listing(f"p{number}", BIG, upstream.files_url))
            for name, base in sides.items():
                fetch(f"{base}/simple/f{number}/", PAGE)
                upstream.forget()
                began, took = _burst(base + _files(upstream, file)[name], file.size, {})
                first[name].append(1000 * began)
                wall[name].append(took)
                gets[name].append(upstream.count("GET", upstream.path_of(file)))
                page[name].append(_burst(f"{base}/simple/p{number}/", 0, PAGE)[1])
    what = f"{_CLIENTS} clients, one cold {length.big // 10**6} MB file"
    return [
        Line(f"{what}: upstream GETs", "", False, (Bound(1, None),), (Bound(1, None),), gets),
        Line(f"{what}: median first byte", "ms", False, (Bound(0.15),), (Bound(0.06),), first),
        Line(f"{what}: wall", "s", False, (Bound(1.3),), (Bound(1.1),), wall),
        Line(f"{_CLIENTS} clients, one cold 2.9 MB page: wall", "s", False, (Bound(0.4),), (Bound(0.15),), page),
    ]


def _burst(url: str, size: int, headers: Mapping[str, str], clients: int = _CLIENTS) -> tuple[float, float]:
    fields = [f"{name}: {said}" for name, said in headers.items()]
    command = [sys.executable, "-m", "tests.bench.burst", url, str(clients), str(size), *fields]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    began, took = json.loads(done.stdout)
    return float(began), float(took)


def _cold_sides(running: ExitStack, scratch: Path, upstream: Upstream) -> dict[str, str]:
    sides = {"direct": upstream.origin, OURS: running.enter_context(proxy(scratch / "proxy", upstream)).url}
    if ideal.installed():
        beside = ideal.Ideal(scratch / "nginx", upstream.origin, upstream.files_url)
        sides[NGINX] = running.enter_context(beside).url
    return sides


def _files(upstream: Upstream, file: Distribution) -> dict[str, str]:
    return {OURS: f"/files/test/{upstream.location(file)}", NGINX: upstream.path_of(file)}


def _floor(place: Path, ours: Server, files: list[Distribution]) -> None:
    """What aiohttp serves: the page as the proxy sends it, and the files."""
    place.mkdir(parents=True)
    (place / "page.gzip").write_bytes(fetch(f"{ours.url}/simple/page/", PAGE).body)
    for file in files:
        with (place / file.filename).open("wb") as copy:
            for piece in file.body.read(0, file.size):
                copy.write(piece)


def _pin(server: Server | ideal.Ideal) -> None:
    """All its threads on the first core, away from wrk."""
    if isinstance(server, Server) and hasattr(os, "sched_setaffinity"):
        for task in Path(f"/proc/{server.pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {min(os.sched_getaffinity(0))})
