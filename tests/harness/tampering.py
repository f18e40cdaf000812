"""What is done to a server's system calls and limits while it runs: as the kernel does it on a bad day."""

from __future__ import annotations

import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.harness.waiting import PATIENCE, eventually


def untraceable() -> str | None:
    """Why no process can be tampered with here, if so."""
    return None if shutil.which("strace") else "strace is missing"


@dataclass(frozen=True, slots=True)
class Trace:
    """What was injected so far, in strace's own words."""

    path: Path

    @property
    def faults(self) -> int:
        """How many system calls were made to fail."""
        return self.path.read_text(errors="replace").count("(INJECTED)")


@contextmanager
def injected(pid: int, trace: Path, *faults: str, on: Sequence[Path] = ()) -> Iterator[Trace]:
    """Inside, system calls of the process, in all its threads, fail as ``faults`` say ("fsync:error=EIO", as the option
    --inject in strace(1)), with ``on`` those on these files alone. ``trace`` is a file for what was made to fail."""
    calls = ",".join(each.partition(":")[0] for each in faults)
    options = [f"--trace={calls}", *(f"--inject={each}" for each in faults), *(f"--trace-path={each}" for each in on)]
    with subprocess.Popen(["strace", "-f", "-qq", "-p", str(pid), "-o", str(trace), *options]) as tracer:
        try:
            eventually(lambda: tracer.poll() is not None or _tracers(pid) == {str(tracer.pid)}, "it is traced")
            assert tracer.poll() is None, "strace cannot attach to it"
            yield Trace(trace)
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.wait(PATIENCE)


def _tracers(pid: int) -> set[str]:
    """Who traces the threads of that process."""
    found = set()
    for each in Path(f"/proc/{pid}/task").iterdir():
        lines = (each / "status").read_text().splitlines()
        found |= {line.split()[1] for line in lines if line.startswith("TracerPid:")}
    return found


@contextmanager
def limited(pid: int, which: int, most: int) -> Iterator[None]:
    """Inside, the process has that soft limit (``resource.RLIMIT_FSIZE``: bytes; ``RLIMIT_NOFILE``: descriptors)."""
    soft, hard = resource.prlimit(pid, which)
    resource.prlimit(pid, which, (most, hard))
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            resource.prlimit(pid, which, (soft, hard))
