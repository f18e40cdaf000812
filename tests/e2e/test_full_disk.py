"""A disk that others have filled to its last byte: everything is served, what must go goes, and caching comes back."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import missing
from tests.harness.fetch import Fetched, fetch
from tests.harness.index import JSON_V1
from tests.harness.packages import Distribution, blob
from tests.harness.server import ROOT, ProxyServer, clean_environment
from tests.harness.smalldisk import SmallDisk
from tests.harness.upstream import Upstream
from tests.harness.waiting import eventually

MIB = 2**20
MakeDisk = Callable[[int], SmallDisk]
Place = tuple[SmallDisk, ProxyServer]


@pytest.fixture
def make_place(tmp_path: Path, upstream: Upstream) -> Iterator[Callable[..., Place]]:
    """``make_place(size, **of [cache])``: a disk of so many bytes and a proxy, not started, with its cache there."""
    if what := SmallDisk.missing():
        missing(what)
    made: list[Place] = []

    def make(size: int, **settings: Any) -> Place:
        disk = SmallDisk(tmp_path / "disk", size).__enter__()
        cache = {"dir": str(disk.path / "cache"), **settings}
        limits = {"breaker_failures": 1_000_000}
        proxy = ProxyServer(tmp_path / "proxy", {"test": upstream.url}, settings={"cache": cache, "limits": limits})
        proxy.prefix = disk.prefix(ROOT)
        proxy.cache = disk.seen / "cache"
        made.append((disk, proxy))
        return disk, proxy

    yield make
    for disk, proxy in made:
        proxy.kill()
        print(f"--- what the proxy said:\n{proxy.stderr[-20000:]}")
        disk.__exit__(None, None, None)


def admin(proxy: ProxyServer, verb: str, asked: Mapping[str, Any], token: str | None = None) -> Fetched:
    """A change over the admin API, with the token that lies in the cache directory."""
    token = (proxy.cache / "admin.token").read_text().strip() if token is None else token
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    return fetch(f"{proxy.url}/admin/cache/{verb}", headers, "POST", body=json.dumps(asked).encode())


def done(answer: Fetched) -> dict[str, Any]:
    """What a change says that worked."""
    assert answer.status == 200, answer.body
    told: dict[str, Any] = json.loads(answer.body)
    return told


def page(proxy: ProxyServer, file: Distribution) -> Fetched:
    """The page of the file's project."""
    return fetch(f"{proxy.index_url}/{file.project}/", {"Accept": JSON_V1})


def download(proxy: ProxyServer, upstream: Upstream, file: Distribution) -> Fetched:
    """Its page and the file, both right."""
    listed = page(proxy, file)
    assert (listed.status, file.filename.encode() in listed.body) == (200, True)
    answer = fetch(proxy.file_url(upstream.location(file)))
    assert (answer.status, answer.complete, answer.sha256) == (200, True, file.sha256)
    return answer


def keep(proxy: ProxyServer, upstream: Upstream, *files: Distribution) -> None:
    """All downloaded, and their rows committed: a client has its file before that."""
    for file in files:
        download(proxy, upstream, file)
    for file in files:
        eventually(partial(cached, proxy, upstream, file), "it is kept")


def cached(proxy: ProxyServer, upstream: Upstream, file: Distribution) -> bool:
    """Whether the file is served from the cache; it is fetched for it when not."""
    return download(proxy, upstream, file).hit


def readiness(proxy: ProxyServer) -> dict[str, str]:
    """What /readyz says."""
    told: dict[str, str] = json.loads(fetch(f"{proxy.url}/readyz").body)
    return told


def fill(disk: SmallDisk, proxy: ProxyServer, upstream: Upstream) -> None:
    """Fills the disk and has the proxy find out by pages that it serves and cannot keep. (A file that it cannot keep
    would have it evict others for that.)"""
    disk.fill()
    for number in range(1000):
        extra = blob(f"extra{number}", size=1000)
        upstream.index.add(extra)
        assert page(proxy, extra).status == 200
        if readiness(proxy)["status"] == "degraded":
            break
    disk.fill()
    assert readiness(proxy) == {"status": "degraded", "because": "the disk is full"}


@contextmanager
def asked_all_along(proxy: ProxyServer, upstream: Upstream, file: Distribution) -> Iterator[None]:
    """Somebody installs the whole time, and gets right pages and right files."""
    stop, failures = threading.Event(), list[BaseException]()

    def ask() -> None:
        try:
            while not stop.is_set():
                download(proxy, upstream, file)
        except BaseException as error:
            failures.append(error)

    client = threading.Thread(target=ask)
    client.start()
    try:
        yield
    finally:
        stop.set()
        client.join(60)
    assert not failures, failures


@pytest.mark.parametrize("ballast", ["16MiB", "0"])
@pytest.mark.parametrize("size", [8 * MIB, 48 * MIB])
def test_remove_and_purge(make_place: Callable[..., Place], upstream: Upstream, size: int, ballast: str) -> None:
    """Both work with no byte left and say what went, while others install; then caching comes back by itself."""
    disk, proxy = make_place(size, ballast=ballast)
    files = [blob(f"blob{number}", size=200_000, seed=number) for number in range(10)]
    upstream.index.add(*files)
    proxy.start()
    keep(proxy, upstream, *files)
    fill(disk, proxy, upstream)

    with asked_all_along(proxy, upstream, files[5]):
        would = done(admin(proxy, "remove", {"pattern": "blob0", "dry_run": True}))
        gone = done(admin(proxy, "remove", {"pattern": "blob0"}))
        assert [each["filename"] for each in gone["removed"]] == [files[0].filename]
        assert (gone["count"], gone["bytes"]) == (would["count"], would["bytes"]) == (1, files[0].size)
        assert files[0].filename not in [path.name for path in proxy.stored()]
        disk.fill()
        assert done(admin(proxy, "remove", {"pattern": "*", "kind": "response", "project": "blob1"}))["count"] > 0
        assert cached(proxy, upstream, files[2])

    disk.fill()
    purged = done(admin(proxy, "purge", {}))
    names = {each["filename"] for each in purged["removed"] if each["kind"] == "wheel"}
    assert names >= {file.filename for file in files[1:]}
    assert purged["count"] == len(purged["removed"])
    assert purged["bytes"] == sum(each["size"] for each in purged["removed"])
    assert proxy.stored() == []
    assert [each for each in (proxy.cache / "wheels").iterdir() if each.is_dir()] == []
    assert proxy.spooled() == []
    held = (disk.seen / "cache/ballast").stat().st_blocks * 512 if ballast != "0" else 0
    assert disk.taken("cache") - held < 300_000

    disk.fill()
    for file in files:
        download(proxy, upstream, file)
    disk.make_room()
    eventually(lambda: cached(proxy, upstream, files[0]), "caching comes back")
    assert readiness(proxy) == {"status": "ready"}
    if ballast != "0":
        # Put back by the first who keeps something and finds room for it.
        wanted = min(16 * MIB, size // 16)
        assert (disk.seen / "cache/ballast").stat().st_blocks * 512 >= wanted
    assert proxy.terminate() == 0


@pytest.mark.parametrize("ballast", ["16MiB", "0"])
def test_a_start_on_a_full_disk(make_place: Callable[..., Place], upstream: Upstream, ballast: str) -> None:
    """It serves what it has and what it has not, and removes with the token that it made before."""
    disk, proxy = make_place(8 * MIB, ballast=ballast)
    files = [blob(f"blob{number}", size=100_000, seed=number) for number in range(3)]
    upstream.index.add(*files)
    proxy.start()
    keep(proxy, upstream, *files[:2])
    fill(disk, proxy, upstream)
    assert proxy.terminate() == 0
    disk.fill()
    proxy.start()
    assert cached(proxy, upstream, files[0])
    disk.fill()
    download(proxy, upstream, files[2])
    assert done(admin(proxy, "remove", {"pattern": "blob0"}))["count"] == 1
    assert cached(proxy, upstream, files[1])
    assert done(admin(proxy, "purge", {}))["count"] > 0
    assert proxy.stored() == []


def test_the_command_on_a_full_disk(make_place: Callable[..., Place], upstream: Upstream) -> None:
    """Without a server it does the same on the directory, with the ballast that the server left."""
    disk, proxy = make_place(8 * MIB)
    files = [blob(f"blob{number}", size=100_000, seed=number) for number in range(3)]
    upstream.index.add(*files)
    proxy.start()
    keep(proxy, upstream, *files)
    fill(disk, proxy, upstream)
    assert proxy.terminate() == 0
    for arguments, left in ((["remove", "blob0"], 2), (["purge"], 0)):
        disk.fill()
        command = [*proxy.prefix, sys.executable, "-m", "proxy", "cache", *arguments]
        done = subprocess.run(
            [*command, "--cache-dir", str(disk.path / "cache")],
            env=clean_environment(), capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert len(proxy.stored()) == left
    assert [each for each in (proxy.cache / "wheels").iterdir() if each.is_dir()] == []


def test_no_token_can_be_written(make_place: Callable[..., Place], upstream: Upstream) -> None:
    """The server starts on a full disk without its token, and nobody is let in for that."""
    disk, proxy = make_place(8 * MIB, ballast="0")
    file = blob("blob", size=100_000)
    upstream.index.add(file)
    proxy.start()
    keep(proxy, upstream, file)
    assert proxy.terminate() == 0
    (proxy.cache / "admin.token").unlink()
    disk.fill()
    proxy.start()
    disk.fill()
    assert cached(proxy, upstream, file)
    for token in ("", "x" * 43):
        assert admin(proxy, "purge", {}, token).status in (401, 403)
    assert not (proxy.cache / "admin.token").exists()
    assert cached(proxy, upstream, file)


def test_more_than_fits(make_place: Callable[..., Place], upstream: Upstream) -> None:
    """A hundred files of 3 MB through a disk of 8 MiB: a hundred right ones, and no part of one is left behind."""
    disk, proxy = make_place(8 * MIB)
    files = [blob(f"blob{number}", size=3_000_000, seed=number) for number in range(100)]
    upstream.index.add(*files)
    proxy.start()
    for file in files:
        download(proxy, upstream, file)
    sizes = {file.filename: file.size for file in files}
    assert all(path.stat().st_size == sizes[path.name] for path in proxy.stored())
    eventually(lambda: proxy.spooled() == [], "no spool is left")
    disk.fill()
    assert done(admin(proxy, "purge", {}))["count"] > 0
    assert proxy.stored() == []
    disk.make_room()
    eventually(lambda: cached(proxy, upstream, files[0]), "caching comes back")
