"""Space held back: really taken, given back when it is needed, and never in anybody's way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.ballast import Ballast
from tests.conftest import missing
from tests.harness.smalldisk import SmallDisk

MIB = 2**20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """An empty filesystem of 8 MiB."""
    if what := SmallDisk.missing():
        missing(what)
    with SmallDisk(tmp_path / "disk", 8 * MIB) as made:
        yield made


def taken(directory: Path) -> int:
    """Bytes that the file takes of the disk, 0 when there is none."""
    path = directory / "ballast"
    return path.stat().st_blocks * 512 if path.exists() else 0


def test_it_takes_its_space_and_nobody_reads_it(tmp_path: Path) -> None:
    """All of its bytes are allocated, with mode 0600 whatever the umask."""
    before = os.umask(0)
    try:
        Ballast(tmp_path, 3 * MIB, min_free=0).keep()
    finally:
        os.umask(before)
    found = (tmp_path / "ballast").stat()
    assert (found.st_size, found.st_mode & 0o777) == (3 * MIB, 0o600)
    assert found.st_blocks * 512 >= 3 * MIB


def test_without_preallocation_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a system or a filesystem cannot reserve space, the bytes are there all the same."""
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    Ballast(tmp_path, MIB + 1, min_free=0).keep()
    assert (tmp_path / "ballast").stat().st_size == MIB + 1
    assert taken(tmp_path) >= MIB + 1


def test_another_setting_and_a_crash(tmp_path: Path) -> None:
    """A file of another size, or cut short while it was made, becomes what it should be; 0 removes it."""
    for left, wanted in ((0, MIB), (MIB, 2 * MIB), (2 * MIB, MIB), (100, 4096)):
        os.truncate(tmp_path / "ballast", left) if left else None
        Ballast(tmp_path, wanted, min_free=0).keep()
        assert (tmp_path / "ballast").stat().st_size == wanted
        assert taken(tmp_path) >= wanted
    with open(tmp_path / "ballast", "r+b") as sparse:
        sparse.truncate(0)
        sparse.truncate(MIB)
    Ballast(tmp_path, MIB, min_free=0).keep()
    assert taken(tmp_path) >= MIB
    Ballast(tmp_path, 0, min_free=0).keep()
    assert not (tmp_path / "ballast").exists()
    Ballast(tmp_path, 0, min_free=0).keep()


def test_release_and_again(tmp_path: Path) -> None:
    """What is released is owed until it is put back, and can be released once."""
    ballast = Ballast(tmp_path, MIB, min_free=0)
    assert not ballast.release()
    ballast.keep()
    assert ballast.owed == 0
    assert ballast.release()
    assert (taken(tmp_path), ballast.owed) == (0, MIB)
    assert not ballast.release()
    ballast.keep()
    assert (taken(tmp_path), ballast.owed) == (MIB, 0)


def test_somebody_else_s(tmp_path: Path) -> None:
    """Who only looks in neither makes one nor removes one, and may release it."""
    guest = Ballast(tmp_path, None, min_free=0)
    guest.keep()
    assert not (tmp_path / "ballast").exists()
    Ballast(tmp_path, MIB, min_free=0).keep()
    guest.keep()
    assert taken(tmp_path) == MIB
    assert guest.release()
    guest.keep()
    assert taken(tmp_path) == 0


def test_a_small_disk_keeps_most_of_itself(disk: SmallDisk) -> None:
    """A sixteenth at most."""
    Ballast(disk.seen, 16 * MIB, min_free=0).keep()
    assert taken(disk.seen) == MIB // 2


def test_it_leaves_the_disk_its_free_space(disk: SmallDisk) -> None:
    """Not made, and not put back, where that would go below the floor; what is there stays."""
    ballast = Ballast(disk.seen, 16 * MIB, min_free=10**9)
    floor = 8 * MIB // 20
    (disk.seen / "other").write_bytes(bytes(8 * MIB - floor - MIB // 2 + 8192))
    ballast.keep()
    assert (taken(disk.seen), ballast.owed) == (0, 0)
    os.truncate(disk.seen / "other", 8 * MIB - floor - MIB // 2 - 8192)
    ballast.keep()
    assert taken(disk.seen) == MIB // 2
    disk.fill()
    ballast.keep()
    assert taken(disk.seen) == MIB // 2
    assert ballast.release()
    assert disk.free() == MIB // 2
    ballast.keep()
    assert (taken(disk.seen), ballast.owed) == (0, MIB // 2)


def test_a_disk_that_fills_up_meanwhile(disk: SmallDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a ballast is none: what could be had of it is given back, and nobody hears of it but the log."""


    def somebody_is_faster(size: int) -> bytes:
        disk.fill()
        return bytes(size)

    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    monkeypatch.setattr(os, "urandom", somebody_is_faster)
    Ballast(disk.seen, 16 * MIB, min_free=0).keep()
    assert not (disk.seen / "ballast").exists()


@pytest.mark.parametrize("kind", ["link", "pipe", "directory"])
def test_what_is_planted_in_its_place(tmp_path: Path, kind: str) -> None:
    """Is not written to, does not block, and costs nothing but the ballast."""
    other, cache = tmp_path / "other", tmp_path / "cache"
    cache.mkdir()
    other.write_bytes(b"mine")
    if kind == "link":
        (cache / "ballast").symlink_to(other)
    elif kind == "pipe":
        os.mkfifo(cache / "ballast")
    else:
        (cache / "ballast").mkdir()
    ballast = Ballast(cache, MIB, min_free=0)
    ballast.keep()
    ballast.release()
    Ballast(cache, 0, min_free=0).keep()
    assert other.read_bytes() == b"mine"


def test_no_directory(tmp_path: Path) -> None:
    """A disk that is gone is somebody else's trouble."""
    ballast = Ballast(tmp_path / "gone", MIB, min_free=0)
    ballast.keep()
    assert not ballast.release()
