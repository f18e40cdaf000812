"""What a fault leaves behind in a server that outlives it: nothing, in /proc, /metrics and the cache's spool."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

from tests.harness.fetch import Fetched, fetch
from tests.harness.packages import wheel
from tests.harness.scrape import parsed
from tests.harness.server import ProxyServer
from tests.harness.waiting import eventually
from tests.harness.world import World

PATIENCE = 20.0
KEPT_OPEN = 15.0
"""Seconds that an idle connection to an upstream is kept for the next request (aiohttp's default)."""
_LISTEN, _TIME_WAIT = "0A", "06"


@dataclass(frozen=True, slots=True)
class Held:
    """What a server holds at one moment: ``files`` are all descriptors but sockets, ``clients`` connections from
    clients, ``upstreams`` those to upstreams, idle ones of the pools included, ``others`` all other sockets. ``tasks``
    of the event loop; ``fetches`` under way and who waits for them; ``spooled`` files."""

    files: int
    clients: int
    upstreams: int
    others: int
    tasks: int
    fetches: int
    spooled: int

    def beyond(self, least: Held, *, wholly: bool) -> list[str]:
        """What is more than at ``least``, in words; the pools to upstreams are looked at only ``wholly``."""
        pairs = ((each.name, getattr(self, each.name), getattr(least, each.name)) for each in fields(self))
        looked_at = ((name, now, then) for name, now, then in pairs if wholly or name != "upstreams")
        return [f"{name}: {now} instead of {then}" for name, now, then in looked_at if now > then]

    def least(self, other: Held) -> Held:
        """The smaller number of each."""
        return Held(*(min(getattr(self, each.name), getattr(other, each.name)) for each in fields(self)))


def held(proxy: ProxyServer) -> Held:
    """Of a server that listens on TCP and speaks plain HTTP. The connection that asks it is not counted."""
    answer = fetch(f"{proxy.url}/metrics")
    said = parsed(answer.body.decode(), answer.headers["content-type"])
    names = [f"pipcacheproxy_{each}" for each in ("fetches", "waiters")]
    files, sockets = _descriptors(proxy.process.pid)
    clients, upstreams = _connections(proxy.process.pid, proxy.port, sockets)
    return Held(
        files,
        clients,
        upstreams,
        len(sockets) - clients - upstreams,
        int(said.sum("pipcacheproxy_tasks")),
        int(sum(said.sum(each) for each in names)),
        len(proxy.spooled()),
    )


class Aftermath:
    """Takes its baseline from a quiet server; after each fault ``settled`` waits until the server is back there.

    ``control``: paths that are hits now and must stay hits with the same bytes (see ``control``).
    """

    def __init__(self, proxy: ProxyServer, *control: str) -> None:
        self._proxy = proxy
        self._pid = proxy.process.pid
        self._control = {path: self._ask(path) for path in control}
        assert all(got.hit for got in self._control.values()), f"no hits: {self._control}"
        held(proxy)  # the first one makes the server load what shows its metrics
        self._least = held(proxy)
        # Its start may not have ended yet: what it holds for that must not be what may be held for ever.
        eventually(lambda: self._lowered().fetches == 0, "the server is quiet")

    @property
    def baseline(self) -> Held:
        """The least that was seen so far."""
        return self._least

    def settled(self, *, wholly: bool = False, timeout: float = PATIENCE) -> None:
        """Returns once nothing is held beyond the baseline; ``wholly``: not even idle connections to upstreams, which
        takes KEPT_OPEN seconds more. Raises AssertionError saying what is left, and what of ``control`` changed."""
        if wholly:  # /proc alone: the server is not to be asked for its metrics all that time
            eventually(self._pools_are_empty, "the connections to upstreams are closed", timeout + KEPT_OPEN)
        left: list[str] = []

        def nothing_left() -> bool:
            assert self._proxy.process.poll() is None, f"the server ended:\n{self._proxy.stderr[-5000:]}"
            left[:] = self._lowered().beyond(self._least, wholly=wholly)
            return not left

        try:
            eventually(nothing_left, "settled", timeout)
        except AssertionError:
            raise AssertionError(f"left behind after {timeout} s: {'; '.join(left)}") from None
        assert self._proxy.process.pid == self._pid, "this is another process"
        for path, first in self._control.items():
            got = self._ask(path)
            assert (got.status, got.hit, got.body == first.body) == (first.status, True, True), f"changed: {path}"

    def _pools_are_empty(self) -> bool:
        _, sockets = _descriptors(self._pid)
        return _connections(self._pid, self._proxy.port, sockets)[1] <= self._least.upstreams

    def _lowered(self) -> Held:
        now = held(self._proxy)
        self._least = now.least(self._least)
        return now

    def _ask(self, path: str) -> Fetched:
        return fetch(f"{self._proxy.url}{path}")


def control(here: World, project: str = "control") -> tuple[str, str]:
    """Publishes a project nobody else touches and warms it: the paths of its page and of its file, hits from now on."""
    file = here.publish(wheel(project, padding=100_000))
    paths = f"/simple/{project}/", here.path_of(file)
    for path in paths:
        eventually(lambda path=path: here.get(path).hit, f"{path} is kept")  # type: ignore[misc]  # the default binds it
    return paths


@contextmanager
def nothing_left(here: World) -> Iterator[Aftermath]:
    """For what is done to that server inside: after all of it not even a connection to an upstream is left."""
    made = Aftermath(here.proxy, *control(here))
    yield made
    made.settled(wholly=True)


def _descriptors(pid: int) -> tuple[int, set[str]]:
    """How many descriptors are no sockets, and the inodes of those that are."""
    files, sockets = 0, set[str]()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(each.readlink())
        except FileNotFoundError:
            continue  # closed since the directory was read
        if found := re.fullmatch(r"socket:\[(\d+)\]", target):
            sockets.add(found[1])
        else:
            files += 1
    return files, sockets


def _connections(pid: int, port: int, sockets: set[str]) -> tuple[int, int]:
    """Which of these sockets are TCP connections: to the server's own port, and from it to others'."""
    clients, upstreams = set[str](), set[str]()  # the tables are no snapshots: one connection may be there twice
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            local, state, inode = words[1], words[3], words[9]
            if inode in sockets and state not in (_LISTEN, _TIME_WAIT):
                own = int(local.rpartition(":")[2], 16) == port
                (clients if own else upstreams).add(inode)
    return len(clients), len(upstreams)
