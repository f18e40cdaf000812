"""G3: everybody wants one file at once that nobody has yet, from an upstream that takes its time."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.harness.behaviours import Answer
from tests.harness.exchange import Gate
from tests.harness.hashing import hashing, said
from tests.harness.packages import Distribution, blob
from tests.harness.waiting import eventually
from tests.harness.world import World, world
from tests.promises.promise import Measured, Promise, Size

PROMISE = Promise(
    "G3",
    "stampede",
    "500 clients, one cold 100 MB file over 60 s: exactly 1 upstream GET, 500 right sha256, memory +<= 150 MiB",
)
CLIENTS = 500
PROCESSES = 4
MIB = 1024 * 1024
MEMORY_MOST = 150 * MIB


@dataclass(frozen=True, slots=True)
class Scale:
    """``size`` in bytes of the file, of which the upstream sends as much a second as takes ``seconds``."""

    size: int
    seconds: int


SCALES = {"ci": Scale(4_000_000, 6), "long": Scale(100_000_000, 60)}


def measure(size: Size, directory: Path) -> Measured:
    """One crowd on a cold file whose page is cold too; the client that came first leaves in the middle."""
    scale = SCALES[size]
    with world(directory) as here:
        here.page("nothing")  # what the first request loads is no memory of the crowd
        file = here.publish(blob("big", size=scale.size))
        gate = Gate()
        here.script_file(file, Answer(rate=scale.size // scale.seconds, stall_after=scale.size // 2, gate=gate))
        before = here.proxy.rss()
        right = _crowd(here, file, gate)
        added = here.proxy.peak_rss() - before
        gets, looks = len(here.file_requests(file)), len(here.page_requests(file.project))
        eventually(lambda: here.kept(file), "the file is kept")
    figure = f"{CLIENTS} clients, {scale.size / 1e6:.0f} MB over {scale.seconds} s: {gets} upstream GET, "
    figure += f"{right} right sha256, memory +{added / MIB:.0f} MiB"
    promised = (
        (f"{CLIENTS - right} clients have no right body", right == CLIENTS),
        (f"{gets} requests for the file, {looks} for its page", (gets, looks) == (1, 1)),
        (f"memory grew by {added / MIB:.0f} MiB", added <= MEMORY_MOST),
    )
    return Measured(figure, tuple(told for told, holds in promised if not holds))


def _crowd(here: World, file: Distribution, gate: Gate) -> int:
    """How many of the clients got the right bytes. The upstream rests at the half until all of them have begun: they
    all follow a fetch that is under way."""
    address = here.proxy.host, here.proxy.port, here.path_of(file)
    with ExitStack() as running:
        with hashing(*address) as first:
            assert said(first) == "started"
            crowds = [running.enter_context(hashing(*address, CLIENTS // PROCESSES)) for _ in range(PROCESSES)]
            assert [said(crowd) for crowd in crowds] == ["started"] * PROCESSES
        (seen,) = here.file_requests(file)
        assert seen.sent < file.size, "the upstream was done before everybody had come: this is no stampede"
        gate.open()
        lines = [crowd.communicate()[0].split() for crowd in crowds]
        assert here.proxy.process.poll() is None
    return [line for each in lines for line in each].count(file.sha256)
