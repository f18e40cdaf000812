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
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path

from tests.bench import ideal, peers, pressure, resolving
from tests.bench.listings import BIG, SMALL, listing
from tests.bench.servers import Server, plain, proxy
from tests.bench.verdicts import NGINX, OURS, STATIC, Bound, Line
from tests.harness.behaviours import Answer
from tests.harness.fetch import fetch
from tests.harness.index import JSON_V1
from tests.harness.packages import Distribution, blob, wheel
from tests.harness.server import ROOT
from tests.harness.upstream import Upstream

PAGE = {"Accept": JSON_V1, "Accept-Encoding": "gzip"}
_CORE = max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
_CLIENTS = 50
_DELAY = 0.030
_AT = "/simple/{}/"
Values = defaultdict[str, list[float]]
Failed = subprocess.CalledProcessError
"""What a load generator ends with when an answer was wrong."""


@dataclass(frozen=True, slots=True)
class Length:
    """How long it may take."""

    repetitions: int
    seconds: float
    big: int  # bytes of the large file
    whole: bool = False  # with the peers, starts and real clients


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


Part = tuple[list[Line], Mapping[str, str]]
"""Lines, and what could not be measured, and why."""
Side = Server | ideal.Ideal | peers.Peer


def warm(scratch: Path, length: Length) -> Part:
    """What is cached, by rate, by p99 and by CPU. One repetition is all sides of all cases."""
    files = [blob("small", size=50_000), blob("middle", size=2 * 10**6), blob("large", size=length.big)]
    with ExitStack() as running:
        upstream = running.enter_context(Upstream(*files))
        for name, count in (("page", SMALL), ("bigpage", BIG)):
            _page(upstream, name, count)
        ours = running.enter_context(proxy(scratch / "proxy", upstream))
        sides: dict[str, Side] = {OURS: ours}
        _floor(scratch / "plain", ours, files)
        sides[STATIC] = running.enter_context(plain(scratch / "plain"))
        if ideal.installed():
            sides[NGINX] = running.enter_context(ideal.Ideal(scratch / "nginx", upstream.origin, upstream.files_url))
        for file in files:
            fetch(f"{ours.url}/simple/{file.project}/", PAGE)
        others, absent = running.enter_context(_peers(scratch / "peers", upstream, length))
        sides |= {peer.name: peer for peer in others}
        for server in (ours, sides[STATIC], *(peer.server for peer in others)):
            _pin(server)
        found, held, failed = _rates(scratch, length, sides, _cases(upstream, files, others))
        return [*(line for group in found for line in group), held], {**absent, **failed}


def _peers(
    scratch: Path, upstream: Upstream, length: Length
) -> AbstractContextManager[tuple[list[peers.Peer], Mapping[str, str]]]:
    return peers.running(scratch, upstream) if length.whole else nullcontext(([], {}))


def _cases(upstream: Upstream, files: list[Distribution], others: list[peers.Peer]) -> list[Case]:
    small, middle, large = (
        {**_files(upstream, file), STATIC: f"/files/{file.filename}", **{peer.name: peer.file(file) for peer in others}}
        for file in files
    )
    page = {OURS: "/simple/page/", NGINX: "/simple/page/", STATIC: "/page/gzip"}
    big = {OURS: "/simple/bigpage/", NGINX: "/simple/bigpage/"}
    page |= {peer.name: peer.page("page") for peer in others}
    big |= {peer.name: peer.page("bigpage") for peer in others}
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
    scratch: Path, length: Length, sides: Mapping[str, Side], cases: list[Case]
) -> tuple[list[tuple[Line, Line]], Line, Mapping[str, str]]:
    """The lines, and that of memory; and which peer gave a wrong answer to what, which is asked no more of it."""
    rate, per_cpu, slow = ([Values(list) for _ in cases] for _ in range(3))
    held, failed = Values(list), dict[str, str]()
    for _ in range(length.repetitions):
        for number, case in enumerate(cases):
            for name in sides.keys() & case.paths.keys():
                if f"{name}, {case.name}" in failed:
                    continue
                try:
                    loaded, used = _loaded(scratch, length, case, sides[name], case.paths[name])
                except (AssertionError, OSError, Failed) as error:
                    if not isinstance(sides[name], peers.Peer):
                        raise
                    failed[f"{name}, {case.name}"] = f"{type(error).__name__}: {str(error)[:200]}"
                    continue
                rate[number][name].append(loaded.requests / loaded.seconds)
                per_cpu[number][name].append(loaded.requests / used)
                slow[number][name].append(loaded.p99)
        for name, side in sides.items():
            held[name].append(side.rss() / 10**6)
    memory = Line("memory, loaded", "MB", False, (Bound(130, None),), (Bound(90, None),), held)
    return [_pair(case, rate[each], per_cpu[each], slow[each]) for each, case in enumerate(cases)], memory, failed


def _loaded(scratch: Path, length: Length, case: Case, side: Side, path: str) -> tuple[pressure.Loaded, float]:
    """What came of it, and the seconds of CPU that it took the server."""
    url, fields, size = _asked(case, side.url + path)
    used = side.cpu()
    how = pressure.How(case.connections, length.seconds, _CORE, case.differing)
    loaded = pressure.load(url, fields, how, scratch, size)
    return loaded, max(side.cpu() - used, 0.01)


def _pair(case: Case, rate: Values, per_cpu: Values, slow: Values) -> tuple[Line, Line]:
    must, reach = (Bound(limit) for limit in case.limits)
    ahead = [Bound(1.0, name) for name in peers.NAMES if rate[name]]
    musts = (must, *([Bound(3.0, STATIC)] if case.floor else []), *ahead)
    p99 = Line(f"{case.name}: p99", "ms", False, (Bound(1.0), *ahead), (Bound(0.7),), slow)
    return Line(case.name, "req/s", True, musts, (reach,), rate, per_cpu), p99


def _asked(case: Case, url: str) -> tuple[str, dict[str, str], int]:
    """What to ask, and how long the right body is: seen once by a client that reads all."""
    fields = {} if case.file else dict(PAGE)
    first = fetch(url, fields)
    assert first.status == 200, (url, first.status)
    assert first.complete, url
    if not case.revalidates:
        return url, fields, len(first.body)
    assert "etag" in first.headers, f"{url} has no ETag"
    fields["If-None-Match"] = first.headers["etag"]
    assert fetch(url, fields).status == 304, f"{url} is sent again, ETag or not"
    return url, fields, 0


def cold(scratch: Path, length: Length) -> Part:
    """What nobody has asked for yet, beside the upstream itself: how much later the last byte is there."""
    small, big, first, total = (Values(list) for _ in range(4))
    with ExitStack() as running:
        upstream = running.enter_context(Upstream())
        _, sides = _cold_sides(running, scratch, upstream)
        alone = dict(sides)
        others, absent = running.enter_context(_peers(scratch / "peers", upstream, length))
        sides |= {peer.name: f"{peer.url}{peer.page('{}')}" for peer in others}
        for name in ("known", *(f"{kind}{number}" for kind in ("s", "b") for number in range(length.repetitions * 2))):
            count = BIG if name.startswith("b") else SMALL
            _page(upstream, name, count, _DELAY)
        for page in sides.values():
            _burst(page.format("known"), 0, PAGE, 1)  # what is loaded on demand is loaded, connections stand
        for number in range(length.repetitions * 2):
            for kind, into in (("s", small), ("b", big)):
                took = {name: _burst(page.format(f"{kind}{number}"), 0, PAGE, 1)[1] for name, page in sides.items()}
                direct = took.pop(resolving.DIRECT)
                for name, each in took.items():
                    into[name].append(1000 * (each - direct))
        for number in range(length.repetitions):
            _cold_file(upstream, alone, blob(f"c{number}", size=length.big, seed=number), first, total)
    what = f"cold {length.big // 10**6} MB file"
    ahead = [Bound(1.0, peer.name) for peer in others]
    return [
        Line("cold small page, added", "ms", False, (Bound(2.5, None), *ahead), (Bound(1.5, None),), small),
        Line("cold 2.9 MB page, added", "ms", False, (Bound(0.6), *ahead), (Bound(20, None),), big),
        Line(f"{what}: first byte, added", "ms", False, (Bound(10, None),), (Bound(3, None),), first),
        Line(f"{what}: all of it", "s", False, (Bound(1.3),), (Bound(1.0),), total),
    ], absent


def _cold_file(
    upstream: Upstream, sides: Mapping[str, str], file: Distribution, first: Values, total: Values
) -> None:
    upstream.index.add(file)
    path = upstream.path_of(file)
    direct, _ = _burst(upstream.files_url + path, file.size, {}, 1)
    for name, at in sides.items():
        if name in (places := _files(upstream, file)):
            fetch(at.format(file.project), PAGE)
            began, took = _burst(at.removesuffix(_AT) + places[name], file.size, {}, 1)
            first[name].append(1000 * (began - direct))
            total[name].append(took)


def clients(scratch: Path, length: Length) -> Part:
    """uv and pip through each side; the upstream is as far away as for what is cold."""
    with ExitStack() as running:
        upstream = running.enter_context(Upstream())
        upstream.default = Answer(delay=_DELAY)
        _, sides = _cold_sides(running, scratch, upstream)
        others, absent = running.enter_context(_peers(scratch / "peers", upstream, length))
        sides |= {peer.name: f"{peer.url}{peer.page('{}')}" for peer in others}
        return resolving.lines(sides, upstream, length.repetitions), absent


def bursts(scratch: Path, length: Length) -> Part:
    """50 clients at once on one cold file, and on one cold big page; each repetition has its own."""
    first, wall, page, gets, grown = (Values(list) for _ in range(5))
    with ExitStack() as running:
        upstream = running.enter_context(Upstream())
        ours, sides = _cold_sides(running, scratch, upstream)
        del sides[resolving.DIRECT]
        for number in range(length.repetitions):
            file = blob(f"f{number}", size=length.big, seed=number)
            upstream.index.add(file)
            _page(upstream, f"p{number}", BIG)
            for name, at in sides.items():
                fetch(at.format(f"f{number}"), PAGE)
                upstream.forget()
                before = ours.rss()
                began, took = _burst(at.removesuffix(_AT) + _files(upstream, file)[name], file.size, {})
                if name == OURS:
                    grown[name].append((ours.peak_rss() - before) / 10**6)
                first[name].append(1000 * began)
                wall[name].append(took)
                gets[name].append(upstream.count("GET", upstream.path_of(file)))
                page[name].append(_burst(at.format(f"p{number}"), 0, PAGE)[1])
    what = f"{_CLIENTS} clients, one cold {length.big // 10**6} MB file"
    return [
        Line(f"{what}: upstream GETs", "", False, (Bound(1, None),), (Bound(1, None),), gets),
        Line(f"{what}: median first byte", "ms", False, (Bound(0.15),), (Bound(0.06),), first),
        Line(f"{what}: memory, added", "MB", False, (Bound(40, None),), (Bound(20, None),), grown),
        Line(f"{what}: wall", "s", False, (Bound(1.3),), (Bound(1.1),), wall),
        Line(f"{_CLIENTS} clients, one cold 2.9 MB page: wall", "s", False, (Bound(0.4),), (Bound(0.15),), page),
    ], {}


def _burst(url: str, size: int, headers: Mapping[str, str], clients: int = _CLIENTS) -> tuple[float, float]:
    fields = [f"{name}: {said}" for name, said in headers.items()]
    command = [sys.executable, "-m", "tests.bench.burst", url, str(clients), str(size), *fields]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    began, took = json.loads(done.stdout)
    return float(began), float(took)


def _cold_sides(running: ExitStack, scratch: Path, upstream: Upstream) -> tuple[Server, dict[str, str]]:
    """The proxy; and where each has a project's page, with {} for its name."""
    ours = running.enter_context(proxy(scratch / "proxy", upstream))
    sides = {resolving.DIRECT: upstream.origin, OURS: ours.url}
    if ideal.installed():
        beside = ideal.Ideal(scratch / "nginx", upstream.origin, upstream.files_url)
        sides[NGINX] = running.enter_context(beside).url
    return ours, {name: f"{url}{_AT}" for name, url in sides.items()}


def _page(upstream: Upstream, name: str, count: int, delay: float = 0.0) -> None:
    """A page of so many files; the list of projects names it, too, for who looks there first."""
    upstream.index.add(wheel(name))
    upstream.script(f"/simple/{name}/", listing(name, count, upstream.files_url, delay))


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


def _pin(server: Side) -> None:
    """All its threads on the first core, away from wrk."""
    if isinstance(server, Server) and hasattr(os, "sched_setaffinity"):
        for task in Path(f"/proc/{server.pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {min(os.sched_getaffinity(0))})
