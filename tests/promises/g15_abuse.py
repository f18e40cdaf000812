"""G15: thousands who send slowly, or do not read what they asked for, beside one who just wants its files."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.harness import abusers, honest
from tests.harness.packages import Distribution, blob, wheel
from tests.harness.server import ProxyServer
from tests.harness.upstream import Upstream
from tests.harness.waiting import eventually
from tests.harness.world import World, world
from tests.promises.promise import Measured, Promise, Size

PROMISE = Promise(
    "G15",
    "abuse",
    "2,000 slow senders and 500 non-readers for 60 s: honest hits 100 %, p99 <= 2 x idle, abusers cut within 60 s",
)
TRIES = 3
SLOWER_MOST = 2.0
LARGE = 8_000_000
IN_A_ROW = range(1, 61, 4)
"""How many answers of 50 KB one asks for at once and does not read: some end in the kernel's buffers, some in ours."""
DRIP = "X-Drop: 1\r\n"
_LOOK_EVERY = 0.5
Plan = list[tuple[int, int, str, str, bool]]


@dataclass(frozen=True, slots=True)
class Scale:
    """How many ``senders`` and ``readers``, for how many ``seconds``; ``patience``: both timeouts of the server, None
    for those it has of itself; ``cut_within`` seconds from their coming."""

    senders: int
    readers: int
    seconds: int
    patience: int | None
    cut_within: int


SCALES = {"ci": Scale(210, 50, 22, 8, 20), "long": Scale(2_000, 500, 75, None, 60)}


@dataclass(frozen=True, slots=True)
class Heard:
    """What the honest one had: ``asked`` and ``right`` requests, and their 99th percentile in milliseconds."""

    asked: int
    right: int
    p99: float


@dataclass(frozen=True, slots=True)
class Round:
    """``held``: the most seconds that the server held a connection of an abuser, ``who`` that was; ``most`` of them at
    one time."""

    idle: Heard
    crowded: Heard
    held: float
    who: str
    most: int

    def shortfalls(self, scale: Scale) -> tuple[str, ...]:
        """What was promised and did not come."""
        missed = self.idle.asked + self.crowded.asked - self.idle.right - self.crowded.right
        promised = (
            (f"{missed} honest requests failed", not missed),
            (f"p99 {self.slower:.1f} x idle", self.slower <= SLOWER_MOST),
            (f"{self.who} was held for {self.held:.0f} s", self.held <= scale.cut_within),
        )
        return tuple(told for told, holds in promised if not holds)

    @property
    def slower(self) -> float:
        """How much the 99th percentile has grown."""
        return self.crowded.p99 / self.idle.p99


def measure(size: Size, directory: Path) -> Measured:
    """The best of some rounds, each beside a server that nobody abuses; what else the machine does is not counted."""
    scale = SCALES[size]
    limits = {} if scale.patience is None else dict.fromkeys(("keepalive_timeout", "write_stall"), f"{scale.patience}s")

    def mounts(upstream: Upstream) -> dict[str, str]:
        return {"tree": f"{upstream.origin}/tree/"}

    with (
        world(directory / "abused", {"limits": limits}, mounts=mounts) as here,
        world(directory / "idle", {"limits": limits}, mounts=mounts) as idle,
    ):
        page, file, large = _files()
        for there, each in product((here, idle), (page, file, large)):
            there.publish(each)
            eventually(lambda there=there, each=each: there.file(each).hit, "it is kept")  # type: ignore[misc]  # bound
        _shown(here, large)
        for _ in range(TRIES):
            done = _round(here, idle, scale, _plan(here, scale, page, large), (page, file))
            if not done.shortfalls(scale):
                break
    cut = f"{done.most} at once, cut within {done.held:.0f} s (timeouts of {scale.patience or 30} s)"
    figure = f"{scale.senders} slow senders and {scale.readers} non-readers for {scale.seconds} s: honest hits "
    figure += f"{done.crowded.right} of {done.crowded.asked}, p99 {done.crowded.p99:.1f} ms, {done.slower:.1f} x idle"
    return Measured(f"{figure}, {cut}", done.shortfalls(scale))


def _files() -> Iterator[Distribution]:
    """One whose page has some 50 KB, by a reason that it gives; one to install; and one that no buffer takes."""
    yield wheel("listed", padding=1_000, yanked="x" * 50_000)
    yield wheel("wanted", padding=30_000)
    yield blob("large", size=LARGE)


def _plan(here: World, scale: Scale, page: Distribution, large: Distribution) -> Plan:
    """See ``abusers``."""
    # Answered with a page of problem details at the latest when nothing more comes; nobody reads these either.
    half = "GET /healthz HTTP/1.1\r\nHost: x\r\n"
    body = "Host: x\r\nContent-Length: 1000000\r\n\r\n{"
    senders = (
        ("", "", True),
        (half, DRIP, True),
        (f"{half}\r\n{half}", DRIP, True),
        (f"GET /simple/ HTTP/1.1\r\n{body}", " ", True),
        (f"POST /admin/cache/purge HTTP/1.1\r\n{body}", " ", True),
        (f"POST /raw/tree/thing HTTP/1.1\r\n{body}", " ", True),
        (f"GET {here.path_of(large)} HTTP/1.1\r\nHost: x\r\nX-", DRIP, True),
    )
    asks = f"GET /simple/{page.project}/ HTTP/1.1\r\nHost: x\r\n\r\n"
    wants = f"GET {here.path_of(large)} HTTP/1.1\r\nHost: x\r\n\r\n"
    # Few of these: to ask for much in a row is no way of not reading, but one to keep a server busy.
    each_row = max(1, scale.readers // 100)
    wanting = scale.readers - each_row * len(IN_A_ROW)
    return [
        *((scale.senders // len(senders) + 1, 1, *each) for each in senders),
        *((each_row, times, asks, "", False) for times in IN_A_ROW),
        (wanting // 2, 1, wants, "", False),
        (wanting - wanting // 2, 1, wants, "GET", False),
    ]


def _shown(here: World, large: Distribution) -> None:
    """Only a timeout ends these: who sends nothing is told nothing, who reads nothing is sent what its buffers take."""
    with here.connect() as silent, here.connect() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(f"GET {here.path_of(large)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        silent.settimeout(1.0)
        try:
            told = silent.recv(100)
        except TimeoutError:
            told = None
        assert told is None, f"who sent nothing was told {told!r}"
        assert {silent.getsockname(), deaf.getsockname()} <= _peers(here.proxy), "the server let go of them by itself"


def _round(here: World, idle: World, scale: Scale, plan: Plan, wanted: Sequence[Distribution]) -> Round:
    """One client asks both in turn, while the abusers are at one of them."""
    eventually(lambda: not _abusers(here.proxy), "the abusers of before are gone", 2.0 * scale.cut_within)
    addresses = [there.proxy.addresses[0] for there in (here, idle)]
    asked = [
        word
        for file, there in product(wanted, (here, idle))
        for word in (there.proxy.addresses[0], there.proxy.process.pid, there.path_of(file), file.sha256)
    ]
    since, held, most = dict[tuple[str, int], float](), (0.0, ""), 0
    abused = here.proxy.host, here.proxy.port, scale.seconds, scale.seconds / 6, json.dumps(plan)
    with _process(abusers, *abused) as crowd, _process(honest, scale.seconds, *asked) as client:
        while crowd.poll() is None:
            now = time.monotonic()
            there_now = _abusers(here.proxy)
            since = {peer: since.get(peer, now) for peer in there_now}
            held = max([held, *((now - came, peer[0]) for peer, came in since.items())])
            most = max(most, len(there_now))
            time.sleep(_LOOK_EVERY)  # a sample of what goes on, nothing is waited for
        connections = json.loads(crowd.communicate()[0])["connections"]
        told = json.loads(client.communicate()[0])
        beside, alone = (_heard(told[address]) for address in addresses)
    # Fewer at one time than there are: some are cut at once, for a body that nobody wants, and come again.
    assert most > 0.7 * (scale.senders + scale.readers), f"no more than {most} of {connections} at one time"
    return Round(alone, beside, *held, most)


@contextmanager
def _process(module: ModuleType, *words: object) -> Iterator[subprocess.Popen[str]]:
    """That program; killed, by its id, if it has not ended."""
    assert module.__file__ is not None
    command = [sys.executable, module.__file__, *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            running.kill()


def _heard(told: Mapping[str, Any]) -> Heard:
    times = sorted(told["times"])
    return Heard(told["asked"], told["right"], times[len(times) * 99 // 100])


def _abusers(proxy: ProxyServer) -> set[tuple[str, int]]:
    """Those whose connection the server has not closed."""
    return {peer for peer in _peers(proxy) if peer[0] != proxy.host}


def _peers(proxy: ProxyServer) -> set[tuple[str, int]]:
    """The other ends of the connections to its port for which the server has a descriptor, whatever became of them."""
    pid, sockets, found = proxy.process.pid, set[str](), set[tuple[str, int]]()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            sockets.add(str(each.readlink()))
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        (_, port), (address, its_port) = (words[at].split(":") for at in (1, 2))
        if int(port, 16) == proxy.port and f"socket:[{words[9]}]" in sockets:
            found.add((socket.inet_ntoa(bytes.fromhex(address)[::-1]), int(its_port, 16)))
    return found - {("0.0.0.0", 0)}
