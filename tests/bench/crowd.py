"""Many clients on one cold file, and one client on a huge one: what is asked upstream, and what memory it takes."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from tests.bench.figures import MIB, Series, bound, report, show
from tests.bench.servers import HOST, Server, plain, proxy
from tests.harness.behaviours import Answer
from tests.harness.exchange import Gate
from tests.harness.fetch import fetch
from tests.harness.hashing import Client, hashing, said
from tests.harness.packages import Distribution, blob
from tests.harness.upstream import Upstream

_CLIENTS = 50
_BIG = 200 * MIB
_HUGE = 1024 * MIB
_GROWTH_MOST = 64.0


def run(directory: Path) -> None:
    """Both."""
    stampede(directory / "stampede")
    huge(directory / "huge")


def stampede(directory: Path) -> None:
    """50 processes ask for one cold file of 200 MiB; the upstream rests after 4 MiB until all have begun."""
    file = blob("big", size=_BIG)
    gate = Gate()
    with Upstream(file) as upstream, proxy(directory / "proxy", upstream) as ours:
        upstream.script(upstream.path_of(file), Answer(stall_after=4 * MIB, gate=gate))
        assert fetch(f"{ours.url}/simple/big/").status == 200
        before = ours.rss()
        path = f"/files/test/{upstream.location(file)}"
        wall, right = _crowd(ours, path, file, gate)
        grown = (ours.peak_rss() - before) / MIB
        asked = upstream.count("GET", upstream.path_of(file))
    beside_wall = _beside(directory / "plain", file)
    sides = Series("proxy, cold", [wall], "s"), Series("aiohttp FileResponse", [beside_wall], "s")
    what = f"{_CLIENTS} clients, one cold 200 MiB"
    report(f"{what}: wall", *sides, f"{asked} GET upstream, {right} right sha256")
    figure = f"  peak memory grew by {grown:.1f} MiB, {grown * MIB / _BIG:.3f}x the file"
    show(figure, bound(grown, _GROWTH_MOST, "MiB"))


def huge(directory: Path) -> None:
    """One client, one cold file of 1 GiB."""
    file = blob("huge", size=_HUGE)
    with Upstream(file) as upstream, proxy(directory, upstream) as ours:
        assert fetch(f"{ours.url}/simple/huge/").status == 200
        before = ours.rss()
        began = time.perf_counter()
        with _client(ours, f"/files/test/{upstream.location(file)}") as client:
            right = _ended(client) == file.sha256
        took = time.perf_counter() - began
        grown = (ours.peak_rss() - before) / MIB
    assert right
    show(f"one cold 1 GiB: peak memory grew by {grown:.1f} MiB, {grown * MIB / _HUGE:.4f}x the file; {took:.1f} s")


def _beside(directory: Path, file: Distribution) -> float:
    directory.mkdir(parents=True)
    with (directory / file.filename).open("wb") as copy:
        for piece in file.body.read(0, file.size):
            copy.write(piece)
    with plain(directory) as server:
        wall, right = _crowd(server, f"/files/{file.filename}", file, None)
    assert right == _CLIENTS
    return wall


def _crowd(server: Server, path: str, file: Distribution, gate: Gate | None) -> tuple[float, int]:
    """Seconds from the first spawn to the last client's end, and how many had the right bytes."""
    began = time.perf_counter()
    with ExitStack() as running:
        clients = [running.enter_context(_client(server, path)) for _ in range(_CLIENTS)]
        if gate is not None:
            for client in clients:
                assert said(client) == "started"
            gate.open()
        right = sum(_ended(client) == file.sha256 for client in clients)
        return time.perf_counter() - began, right


def _client(server: Server, path: str) -> AbstractContextManager[Client]:
    return hashing(HOST, urlsplit(server.url).port or 80, path)


def _ended(client: Client) -> str:
    """The last line of a client that ended well; empty when it did not."""
    lines = client.communicate()[0].split()
    return lines[-1] if client.returncode == 0 and lines else ""
