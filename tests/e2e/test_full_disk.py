"""A disk that others have filled to its last byte: everything is served, what must go goes, and caching comes back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.harness.packages import blob
from tests.harness.server import clean_environment
from tests.harness.smalldisk import SmallDisk
from tests.harness.smallplace import SmallPlace, small_place
from tests.harness.upstream import Upstream
from tests.harness.waiting import eventually

MIB = 2**20
MakePlace = Callable[..., SmallPlace]


@pytest.fixture
def make_place(tmp_path: Path, upstream: Upstream) -> Iterator[MakePlace]:
    """``make_place(size, **of [cache])``: a disk of so many bytes and a proxy, not started, with its cache there."""
    if what := SmallDisk.missing():
        missing(what)
    made: list[SmallPlace] = []
    with ExitStack() as running:

        def make(size: int, **cache: object) -> SmallPlace:
            made.append(running.enter_context(small_place(tmp_path, upstream, size, **cache)))
            return made[-1]

        yield make
    for place in made:
        print(f"--- what the proxy said:\n{place.proxy.stderr[-20000:]}")


@pytest.mark.parametrize("ballast", ["16MiB", "0"])
@pytest.mark.parametrize("size", [8 * MIB, 48 * MIB])
def test_remove_and_purge(make_place: MakePlace, size: int, ballast: str) -> None:
    """Both work with no byte left and say what went, while others install; then caching comes back by itself."""
    place = make_place(size, ballast=ballast)
    files = [blob(f"blob{number}", size=200_000, seed=number) for number in range(10)]
    place.publish(*files)
    place.proxy.start()
    place.keep(*files)
    place.fill()

    with place.asked_all_along(files[5]):
        would = place.done("remove", {"pattern": "blob0", "dry_run": True})
        gone = place.done("remove", {"pattern": "blob0"})
        assert [each["filename"] for each in gone["removed"]] == [files[0].filename]
        assert (gone["count"], gone["bytes"]) == (would["count"], would["bytes"]) == (1, files[0].size)
        assert files[0].filename not in [path.name for path in place.proxy.stored()]
        place.disk.fill()
        assert place.done("remove", {"pattern": "*", "kind": "response", "project": "blob1"})["count"] > 0
        assert place.cached(files[2])

    place.disk.fill()
    purged = place.done("purge", {})
    names = {each["filename"] for each in purged["removed"] if each["kind"] == "wheel"}
    assert names >= {file.filename for file in files[1:]}
    assert purged["count"] == len(purged["removed"])
    assert purged["bytes"] == sum(each["size"] for each in purged["removed"])
    assert place.proxy.stored() == []
    assert [each for each in (place.proxy.cache / "wheels").iterdir() if each.is_dir()] == []
    assert place.proxy.spooled() == []
    held = (place.disk.seen / "cache/ballast").stat().st_blocks * 512 if ballast != "0" else 0
    assert place.disk.taken("cache") - held < 300_000

    place.disk.fill()
    for file in files:
        place.download(file)
    place.disk.make_room()
    eventually(lambda: place.cached(files[0]), "caching comes back")
    assert place.readiness() == {"status": "ready"}
    if ballast != "0":
        # Put back by the first who keeps something and finds room for it.
        wanted = min(16 * MIB, size // 16)
        assert (place.disk.seen / "cache/ballast").stat().st_blocks * 512 >= wanted
    assert place.proxy.terminate() == 0


@pytest.mark.parametrize("ballast", ["16MiB", "0"])
def test_a_start_on_a_full_disk(make_place: MakePlace, ballast: str) -> None:
    """It serves what it has and what it has not, and removes with the token that it made before."""
    place = make_place(8 * MIB, ballast=ballast)
    files = [blob(f"blob{number}", size=100_000, seed=number) for number in range(3)]
    place.publish(*files)
    place.proxy.start()
    place.keep(*files[:2])
    place.fill()
    assert place.proxy.terminate() == 0
    place.disk.fill()
    place.proxy.start()
    assert place.cached(files[0])
    place.disk.fill()
    place.download(files[2])
    assert place.done("remove", {"pattern": "blob0"})["count"] == 1
    assert place.cached(files[1])
    assert place.done("purge", {})["count"] > 0
    assert place.proxy.stored() == []


def test_the_command_on_a_full_disk(make_place: MakePlace) -> None:
    """Without a server it does the same on the directory, with the ballast that the server left."""
    place = make_place(8 * MIB)
    files = [blob(f"blob{number}", size=100_000, seed=number) for number in range(3)]
    place.publish(*files)
    place.proxy.start()
    place.keep(*files)
    place.fill()
    assert place.proxy.terminate() == 0
    for arguments, left in ((["remove", "blob0"], 2), (["purge"], 0)):
        place.disk.fill()
        command = [*place.proxy.prefix, sys.executable, "-m", "proxy", "cache", *arguments]
        done = subprocess.run(
            [*command, "--cache-dir", str(place.disk.path / "cache")],
            env=clean_environment(), capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert len(place.proxy.stored()) == left
    assert [each for each in (place.proxy.cache / "wheels").iterdir() if each.is_dir()] == []


def test_no_token_can_be_written(make_place: MakePlace) -> None:
    """The server starts on a full disk without its token, and nobody is let in for that."""
    place = make_place(8 * MIB, ballast="0")
    file = blob("blob", size=100_000)
    place.publish(file)
    place.proxy.start()
    place.keep(file)
    assert place.proxy.terminate() == 0
    (place.proxy.cache / "admin.token").unlink()
    place.disk.fill()
    place.proxy.start()
    place.disk.fill()
    assert place.cached(file)
    for token in ("", "x" * 43):
        assert place.admin("purge", {}, token).status in (401, 403)
    assert not (place.proxy.cache / "admin.token").exists()
    assert place.cached(file)
