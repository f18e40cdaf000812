"""Faults of our own machine: its disk, its clock, its descriptors, and who else is there. Everybody is served.

Where a row of them is told elsewhere: a disk with no byte left in tests/e2e/test_full_disk.py, a purge during a fill in
tests/e2e/test_purge.py, clients that do not read in tests/e2e/test_limits.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.harness import admin
from tests.harness.aftermath import Aftermath, control
from tests.harness.behaviours import Answer
from tests.harness.clocked import Clock
from tests.harness.exchange import Gate
from tests.harness.fetch import fetch
from tests.harness.packages import Distribution, blob, wheel
from tests.harness.reader import Reader
from tests.harness.scrape import Scraped, parsed
from tests.harness.server import ROOT, clean_environment
from tests.harness.smalldisk import SmallDisk
from tests.harness.tampering import injected, limited, untraceable
from tests.harness.waiting import eventually
from tests.harness.world import PATIENCE, World, fresh_name, heard, listen, world

ROOMS = ("responses", "wheels", "mounts")
KIB, MIB = 1024, 1024 * 1024
LARGE, SMALL = 300 * KIB, 10 * KIB


def readiness(here: World) -> dict[str, str]:
    """What /readyz says; it is 200 as long as clients are served."""
    got = here.get("/readyz")
    assert got.status == 200
    told: dict[str, str] = json.loads(got.body)
    return told


def scraped(here: World) -> Scraped:
    """What /metrics says."""
    got = here.get("/metrics")
    return parsed(got.body.decode(), got.headers["content-type"])


def published(here: World, size: int = LARGE) -> Distribution:
    """A file that nobody asked for yet."""
    return here.publish(blob(fresh_name(), size=size, seed=size))


def downloaded(here: World, file: Distribution) -> bool:
    """Its page and the file, both right; whether the file was a hit."""
    page, got = here.page(file.project), here.file(file)
    assert (page.status, file.filename.encode() in page.body) == (200, True), page
    assert (got.status, got.complete, got.sha256) == (200, True, file.sha256), (got.status, got.headers)
    return got.hit


def kept(here: World, file: Distribution) -> Distribution:
    """The same file, once it is a hit."""
    eventually(lambda: downloaded(here, file), "it is kept")
    return file


# --- the disk


@dataclass(frozen=True, slots=True)
class BadDisk:
    """``begins`` makes it bad until its context ends; ``because`` is what the proxy calls it."""

    begins: Callable[[World, Path], AbstractContextManager[object]]
    because: str


@contextmanager
def tampered(here: World, directory: Path, fault: str, on: Sequence[Path] = ()) -> Iterator[None]:
    """System calls fail; at least one did."""
    if what := untraceable():
        missing(what)
    with injected(here.proxy.process.pid, directory / "trace", fault, on=on) as trace:
        yield
        assert trace.faults > 0, "the fault did not happen"


def failing(fault: str) -> Callable[[World, Path], AbstractContextManager[object]]:
    """A disk on which these system calls fail."""
    return lambda here, directory: tampered(here, directory, fault)


def failing_rows(fault: str) -> Callable[[World, Path], AbstractContextManager[object]]:
    """One on which they fail on the databases alone."""

    def begins(here: World, directory: Path) -> AbstractContextManager[object]:
        files = [here.proxy.cache / room / f"cache.db{suffix}" for room in ROOMS for suffix in ("", "-wal")]
        return tampered(here, directory, fault, files)

    return begins


@contextmanager
def vanished(here: World, directory: Path) -> Iterator[None]:
    """The cache directory is not where it was."""
    cache = here.proxy.cache
    cache.rename(directory / "elsewhere")
    try:
        yield
    finally:
        (directory / "elsewhere").rename(cache)


DISKS = {
    "no space for a name": BadDisk(failing("?link,?linkat:error=ENOSPC"), "the disk is full"),
    "EIO on fsync": BadDisk(failing("fsync,fdatasync:error=EIO"), "the disk failed"),
    "EIO on the directory": BadDisk(failing("?mkdir,?mkdirat:error=EIO"), "the disk failed"),
    "EROFS on the directory": BadDisk(failing("?mkdir,?mkdirat:error=EROFS"), "the disk is read-only"),
    "ENOSPC in the databases": BadDisk(failing_rows("pwrite64:error=ENOSPC"), "the disk is full"),
    "EIO in the databases": BadDisk(failing_rows("pread64,pwrite64:error=EIO"), "the disk failed"),
    "EROFS in the databases": BadDisk(failing_rows("pwrite64:error=EROFS"), "the disk failed"),
    "vanished": BadDisk(vanished, "the disk failed"),
}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One proxy that most of these share."""
    with world(tmp_path_factory.mktemp("machine")) as made:
        yield made


@pytest.fixture(scope="module")
def after(here: World) -> Aftermath:
    """What it held when it was quiet, and what must stay as it is."""
    return Aftermath(here.proxy, *control(here))


def shows(here: World, because: str) -> bool:
    """Whether /readyz and the gauge say so."""
    gauge = scraped(here).sum("pipcacheproxy_store_degraded", reason=because)
    return gauge == 1 and readiness(here) == {"status": "degraded", "because": because}


@pytest.mark.parametrize("fault", DISKS)
def test_a_bad_disk(here: World, after: Aftermath, tmp_path: Path, fault: str) -> None:
    """Everybody gets right bytes, of what is kept and of what is not; it is said in /readyz, at /metrics and in one
    line of the log; and once the disk is good again, caching goes on by itself."""
    bad = DISKS[fault]
    warm, cold = kept(here, published(here)), [published(here, size) for size in (LARGE, SMALL, 2 * MIB)]
    here.proxy.forget()
    with bad.begins(here, tmp_path):
        for _ in range(2):
            downloaded(here, warm)
            for file in cold:
                assert not downloaded(here, file)
        eventually(lambda: shows(here, bad.because), "it says so")
        told = [line["message"] for line in here.proxy.log_lines("message") if "is degraded" in line["message"]]
        assert [each.partition(" (")[0] for each in told] == [f"the store is degraded: {bad.because}"]
    for file in (warm, *cold, published(here)):
        kept(here, file)
    eventually(lambda: readiness(here) == {"status": "ready"}, "it works again")
    assert scraped(here).sum("pipcacheproxy_store_degraded") == 0
    here.proxy.wait_for_log(lambda lines: "the store works again" in [each.get("message") for each in lines])
    after.settled()


def test_a_body_that_cannot_be_read(here: World, after: Aftermath, tmp_path: Path) -> None:
    """Nobody takes a part of it for the whole; who asks next gets it from the upstream, and it is kept anew, while the
    old one still cannot be read."""
    file = kept(here, published(here))
    asked = len(here.file_requests(file))
    (body,) = (path for path in here.proxy.stored() if path.name == file.filename)
    with tampered(here, tmp_path, "sendfile,pread64,preadv:error=EIO", [body]):
        first = here.file(file)
        assert (first.status, first.complete, first.sha256 == file.sha256) == (200, False, False)
        kept(here, file)
    assert len(here.file_requests(file)) == asked + 1
    eventually(lambda: readiness(here) == {"status": "ready"}, "it works again")
    after.settled()


def test_files_may_not_be_large(here: World, after: Aftermath) -> None:
    """Writes that end in their middle, then fail, wherever they go: everybody gets right bytes all the same, and what
    does not fit is not kept, until it does."""
    small, large = published(here, SMALL), published(here, 2 * MIB)
    assert [here.page(file.project).status for file in (small, large)] == [200, 200]
    with limited(here.proxy.process.pid, resource.RLIMIT_FSIZE, LARGE):
        for file in (large, small):
            assert not downloaded(here, file)
    assert not [path for path in here.proxy.stored() if path.name == large.filename]
    for file in (small, large):
        kept(here, file)
    after.settled()


# --- descriptors

CONNECTIONS = 100


class Caller:
    """A client with one connection."""

    def __init__(self, here: World, running: ExitStack) -> None:
        self._connection = running.enter_context(closing(here.connect()))

    def ask(self, path: str) -> None:
        """Sends a request; its answer is not waited for."""
        self._connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())

    def answer(self, within: float = PATIENCE) -> bytes | None:
        """The beginning of it; None when nothing comes so long."""
        self._connection.settimeout(within)
        try:
            return self._connection.recv(65536)
        except TimeoutError:
            return None


def descriptors(here: World) -> int:
    """How many it has open."""
    return len(os.listdir(f"/proc/{here.proxy.process.pid}/fd"))


PAUSED = "too few descriptors are left: no connection is accepted until some are free"
GOES_ON = "connections are accepted again"


def test_descriptors_become_scarce(tmp_path: Path) -> None:
    """Nobody more is let in while those who are get what they ask for, also what is to be fetched; who waits is served
    as soon as others leave. The log says so in two lines."""
    with world(tmp_path) as here:
        warm, cold = kept(here, published(here)), published(here)
        most = 2 * (descriptors(here) + CONNECTIONS // 2)
        with limited(here.proxy.process.pid, resource.RLIMIT_NOFILE, most), ExitStack() as waiting:
            with ExitStack() as inside:
                early = Caller(here, inside)
                early.ask("/healthz")
                assert early.answer()
                crowd = [Caller(here, inside) for _ in range(CONNECTIONS)]
                here.proxy.wait_for_log(lambda lines: PAUSED in [each.get("message") for each in lines])
                late = Caller(here, waiting)
                late.ask("/healthz")
                assert late.answer(within=2.5) is None
                assert descriptors(here) <= most * 3 // 4
                for file in (warm, cold):
                    assert kept_by(early, here, file)
                del crowd
            answer = late.answer()
            assert answer is not None
            assert answer.startswith(b"HTTP/1.1 200 ")
        assert downloaded(here, warm)
        said = [each["message"] for each in here.proxy.log_lines("message")]
        told = [each for each in said if each in (PAUSED, GOES_ON)]
        # One that leaves lets one in: then it may begin again.
        assert told == [PAUSED, GOES_ON] * (len(told) // 2)
        assert 2 <= len(told) <= 8
        assert "Traceback" not in here.proxy.stderr
        assert here.proxy.terminate() == 0


def kept_by(caller: Caller, here: World, file: Distribution) -> bool:
    """Whether that client gets page and file."""
    for path, length in ((f"/simple/{file.project}/", 0), (here.path_of(file), file.size)):
        caller.ask(path)
        got = caller.answer() or b""
        assert got.startswith(b"HTTP/1.1 200 "), got
        while len(got) < length:
            got += caller.answer() or b""
    return file.sha256 == hashlib.sha256(got.partition(b"\r\n\r\n")[2]).hexdigest()


def test_no_descriptor_at_all(tmp_path: Path) -> None:
    """Not one more can be opened: nothing is said to be missing, nobody gets a part for the whole, and all works again
    once there are some."""
    with world(tmp_path) as here:
        warm, cold = kept(here, published(here)), published(here)
        after = Aftermath(here.proxy, *control(here))
        with ExitStack() as inside:
            callers = [Caller(here, inside) for _ in range(3)]
            for caller in callers:
                caller.ask("/healthz")
                assert caller.answer()
            with limited(here.proxy.process.pid, resource.RLIMIT_NOFILE, 5):
                said = []
                paths = [f"/simple/{warm.project}/", here.path_of(warm), here.path_of(cold)]
                for caller, path in zip(callers, paths, strict=True):
                    caller.ask(path)
                    said.append(int((caller.answer() or b"HTTP/1.1 000 ")[9:12]))
                assert said[0] == 200
                assert {*said[1:]} <= {502, 503}
                outside = Caller(here, inside)
                outside.ask("/healthz")
                assert outside.answer(within=1.5) is None
            assert outside.answer()
        for file in (warm, cold):
            kept(here, file)
        eventually(lambda: readiness(here) == {"status": "ready"}, "it works again")
        after.settled()
        assert here.proxy.terminate() == 0
        assert here.proxy.stderr.count(PAUSED) <= 1
        assert "Traceback" not in here.proxy.stderr


def test_the_end_while_descriptors_are_scarce(tmp_path: Path) -> None:
    """SIGTERM while nobody is accepted: it ends, and says no more than ever."""
    with world(tmp_path) as here, ExitStack() as inside:
        with limited(here.proxy.process.pid, resource.RLIMIT_NOFILE, 2 * descriptors(here) + 2):
            crowd = [Caller(here, inside) for _ in range(20)]
            here.proxy.wait_for_log(lambda lines: PAUSED in [each.get("message") for each in lines])
            assert here.proxy.terminate() == 0
        del crowd
        assert "Traceback" not in here.proxy.stderr


# --- the clock

YEARS = 10 * 365 * 86_400.0


def ask_twice(here: World, path: str) -> bool:
    """Whether the second of two requests at once is a hit."""
    here.get(path)
    return here.get(path).hit


@pytest.mark.parametrize("jump", [YEARS, -YEARS], ids=["forwards", "backwards"])
@pytest.mark.parametrize("when", ["while it runs", "while it is down"])
def test_the_clock_jumps(tmp_path: Path, jump: float, when: str) -> None:
    """Files stay hits, and a page is what the upstream says within a moment; what was missing is not missing for ever,
    and what is removed goes. When the clock is put right, all holds again."""
    clock = Clock(tmp_path / "clock")
    with world(tmp_path, {"freshness": {"default_ttl": "1h"}}, clock=clock) as here:
        files, ghosts = [kept(here, published(here, SMALL))], [fresh_name()]
        for moved in (jump, -jump):
            missing_one = ghosts[-1]
            assert here.page(missing_one).status == 404
            newer = wheel(files[0].project, version=f"{len(files) + 1}.0")
            here.publish(newer)
            if when == "while it runs":
                clock.move(moved)
            else:
                assert here.proxy.terminate() == 0
                clock.move(moved)
                here.proxy.start()
            # Not one of them is asked for again: they are pinned by their hashes.
            asked = [len(here.file_requests(file)) for file in files]
            for file in files:
                assert here.file(file).hit
            assert [len(here.file_requests(file)) for file in files] == asked
            told = newer.filename.encode()
            eventually(lambda: told in here.page(files[0].project).body, "looked at")  # noqa: B023 - waited for right here
            here.publish(wheel(missing_one))
            eventually(lambda: here.page(missing_one).status == 200, "it is looked for")  # noqa: B023 - at once
            files.append(kept(here, published(here, SMALL)))
            ghosts.append(fresh_name())
        eventually(lambda: ask_twice(here, f"/simple/{files[0].project}/"), "pages are fresh again")
        done = admin.ask(here, "POST", "/admin/cache/purge", {})
        assert done.status == 200
        assert here.proxy.stored() == []
        told = json.loads(admin.ask(here, "GET", "/admin/cache/list").body)
        assert told["files"] == []
        kept(here, files[0])


# --- what is read goes

GONE = {
    "evicted": {"cache": {"max_size": "40MB", "ballast": 0}},
    "purged": {},
    "removed": {},
    "unlinked by hand": {},
}


@pytest.mark.parametrize("how", GONE)
def test_what_is_read_goes(tmp_path: Path, how: str) -> None:
    """Readers who are in the middle of a stored file finish, with the right bytes; the next one makes it be fetched
    again, once."""
    with world(tmp_path, GONE[how]) as here:
        after = Aftermath(here.proxy)
        file = kept(here, published(here, 9 * MIB))
        readers = [Reader(here, here.path_of(file)) for _ in range(10)]
        match how:
            case "evicted":
                for _ in range(5):
                    downloaded(here, published(here, 9 * MIB - KIB))
                eventually(lambda: not here.kept(file), "it is evicted")
            case "unlinked by hand":
                for path in here.proxy.stored():
                    path.unlink()
            case _:
                asked = {"pattern": file.filename.partition("-")[0]} if how == "removed" else {}
                verb = "remove" if how == "removed" else "purge"
                assert admin.ask(here, "POST", f"/admin/cache/{verb}", asked).status == 200
        assert not here.kept(file)
        assert [reader.rest() for reader in readers] == [file.sha256] * len(readers)
        assert len(here.file_requests(file)) == 1
        assert downloaded(here, file) is False
        kept(here, file)
        assert len(here.file_requests(file)) == 2
        after.settled()


# --- the end


def refuses(here: World) -> bool:
    """Whether nobody listens any more."""
    try:
        here.connect().close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_end_drains(tmp_path: Path, number: signal.Signals) -> None:
    """A download under way ends as it should, new clients are refused, idle ones closed; exit 0, the file is kept."""
    with world(tmp_path) as here:
        file = here.publish(blob("big", size=2 * MIB))
        gate, begun = Gate(), threading.Event()
        here.script_file(file, Answer(stall_after=MIB, gate=gate))
        here.page("big")

        def begin(_: int) -> None:
            begun.set()

        with here.connect() as idle, ThreadPoolExecutor(1) as pool:
            idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert heard(idle.recv(65536), False).status == 200
            job = pool.submit(fetch, f"{here.proxy.url}{here.path_of(file)}", progress=begin)
            assert begun.wait(20)
            here.proxy.signal(number)
            eventually(lambda: refuses(here), "new connections are refused")
            assert listen(idle).data == b""
            assert here.proxy.process.poll() is None
            gate.open()
            got = job.result()
        assert (got.complete, got.sha256) == (True, file.sha256)
        assert here.proxy.process.wait(10) == 0
        here.proxy.kill()
        here.proxy.start()
        assert here.file(file).hit
        assert here.proxy.spooled() == []


def test_the_end_cuts_after_the_drain(tmp_path: Path) -> None:
    """What still runs after ``drain`` is reset, so that nobody takes a part for the whole; the exit code is 0."""
    with world(tmp_path, {"server": {"drain": "1s"}}) as here:
        file = here.publish(blob("big", size=2 * MIB))
        gate = Gate()
        here.script_file(file, Answer(stall_after=MIB, gate=gate))
        here.page("big")
        with here.connect() as connection:
            connection.sendall(f"GET {here.path_of(file)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            begun = connection.recv(1000)
            began = time.monotonic()
            here.proxy.signal(signal.SIGTERM)
            got = listen(connection, begun)
            assert got.reset
            assert len(got.body) < file.size
            assert here.proxy.process.wait(10) == 0
            assert 0.9 < time.monotonic() - began < 4
        gate.open()
        here.proxy.kill()
        here.proxy.start()
        assert here.proxy.spooled() == []
        here.script_file(file)
        assert here.file(file).sha256 == file.sha256


def test_the_end_while_the_upstream_rests(tmp_path: Path) -> None:
    """A client that waits for a page when the time is up is cut too; nothing keeps the process."""
    with world(tmp_path, {"server": {"drain": "0.3s"}}) as here:
        gate = Gate()
        here.publish(wheel("slow"))
        here.script("slow", Answer(held=gate))
        with here.connect() as connection:
            connection.sendall(b"GET /simple/slow/ HTTP/1.1\r\nHost: x\r\n\r\n")
            assert gate.reached.wait(20)
            assert here.proxy.terminate(timeout=10) == 0
            got = listen(connection)
            assert got.status in (0, 503)
        gate.open()


# --- who else is there, and what is wrong from the start


def serve(*words: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """The command, which ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", "proxy", "serve", *words],
        cwd=ROOT, env=clean_environment(environment), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that it says."""
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("pip-cache-proxy: ")
    return line.removeprefix("pip-cache-proxy: ")


def everything(directory: Path) -> dict[str, tuple[int, int, bytes]]:
    """Modes, times and contents of a tree."""
    paths = ((path, path.lstat()) for path in [directory, *directory.rglob("*")])
    return {
        str(path): (found.st_mode, found.st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path, found in paths
    }


def test_a_newer_version_of_the_cache(tmp_path: Path) -> None:
    """Exit 73, one line, and not a byte of it is touched."""
    with world(tmp_path) as here:
        kept(here, published(here))
        assert here.proxy.terminate() == 0
        (here.proxy.cache / "VERSION").write_text("2\n")
        (here.proxy.cache / "incoming" / "theirs").write_text("spooled by a newer version")
        before = everything(here.proxy.cache)
        done = serve("--port", "0", "--cache-dir", str(here.proxy.cache))
        assert done.returncode == 73
        assert complaint(done) == f"cache.dir: {here.proxy.cache}: the cache directory was written by a newer version"
        assert everything(here.proxy.cache) == before


def test_a_second_owner(here: World, after: Aftermath) -> None:
    """Exit 75, one line that names the directory and who holds it; the first one serves on."""
    file = kept(here, published(here))
    done = serve("--port", "0", "--cache-dir", str(here.proxy.cache))
    assert done.returncode == 75
    line = complaint(done)
    assert line.startswith(f"cache.dir: {here.proxy.cache} is in use by process {here.proxy.process.pid};")
    assert downloaded(here, file)
    after.settled()


def test_a_disk_that_is_read_only_from_the_start(tmp_path: Path) -> None:
    """Exit 73 and one line: nobody can tell there whether another one runs."""
    if what := SmallDisk.missing():
        missing(what)
    with SmallDisk(tmp_path / "disk", 8 * MIB) as disk:
        inside, cache = disk.prefix(ROOT), disk.path / "cache"
        subprocess.run([*inside, "mount", "-o", "remount,ro", str(disk.path)], check=True, timeout=20)
        command = [*inside, sys.executable, "-m", "proxy", "serve", "--port", "0", "--cache-dir", str(cache)]
        done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 73
        assert complaint(done).startswith(f"cache.dir: {cache}: ")


SECRET = "canary-3f9c"
BAD = {
    "an unknown key": ('[cache]\nmax_sizes = "1GB"\n', "cache.max_sizes"),
    "a wrong type": ("[limits]\nredirects = []\n", "limits.redirects"),
    "a bad size": ('[cache]\nmax_size = "twenty"\n', "cache.max_size"),
    "a password in a URL": (f'[[index]]\nname = "a"\nurl = "ftp://user:{SECRET}@example.com/"\n', "index[0].url"),
    "a short token": (f'[admin]\ntoken = "{SECRET}"\n', "admin.token"),
    "broken TOML": (f'[admin]\ntoken = "{SECRET}\n', "config.toml"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_setting(tmp_path: Path, case: str) -> None:
    """Exit 78, one line that names the key, and nothing of what is secret; nothing is made."""
    text, key = BAD[case]
    config, cache = tmp_path / "config.toml", tmp_path / "cache"
    config.write_text(text)
    done = serve("--config", str(config), "--cache-dir", str(cache))
    assert done.returncode == 78
    line = complaint(done)
    assert key in line.partition(": ")[0] or key in line, line
    assert SECRET not in line
    assert not cache.exists()
