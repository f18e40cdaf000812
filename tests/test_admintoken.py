"""The token that the server makes for itself: kept when it can be believed, replaced when not, never in the way."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy import admintoken

GOOD = "a" * 42 + "-"


def planted(directory: Path, content: str = f"{GOOD}\n", mode: int = 0o600) -> Path:
    """A file that is there before the server starts."""
    path = directory / admintoken.NAME
    path.write_text(content)
    path.chmod(mode)
    return path


def test_it_is_made_once(tmp_path: Path) -> None:
    """Random, long, for its owner alone whatever the umask says, and the same at the next start."""
    old = os.umask(0)
    try:
        token = admintoken.kept_or_made(tmp_path)
    finally:
        os.umask(old)
    path = tmp_path / admintoken.NAME
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", token)
    assert path.read_text() == f"{token}\n"
    assert path.stat().st_mode & 0o7777 == 0o600
    assert admintoken.kept_or_made(tmp_path) == token == admintoken.read(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    assert admintoken.kept_or_made(other) != token
    assert [each.name for each in tmp_path.iterdir() if each.is_file()] == [admintoken.NAME]


def _mode(number: int) -> Callable[[Path], object]:
    return lambda directory: planted(directory, mode=number)


def _content(text: str) -> Callable[[Path], object]:
    return lambda directory: planted(directory, text)


def _link(directory: Path) -> None:
    elsewhere = directory / "elsewhere"
    elsewhere.write_text(f"{GOOD}\n")
    elsewhere.chmod(0o600)
    (directory / admintoken.NAME).symlink_to(elsewhere)


def _pipe(directory: Path) -> None:
    os.mkfifo(directory / admintoken.NAME, 0o600)


@pytest.mark.parametrize(
    "plant",
    [
        pytest.param(_mode(0o640), id="group"),
        pytest.param(_mode(0o604), id="others"),
        pytest.param(_mode(0o700), id="executable"),
        pytest.param(_content(""), id="empty"),
        pytest.param(_content("short\n"), id="short"),
        pytest.param(_content(f"{GOOD}\n\n"), id="two lines"),
        pytest.param(_content(f" {GOOD[1:]}\n"), id="space"),
        pytest.param(_content("x" * 100_000), id="long"),
        pytest.param(_link, id="link"),
        pytest.param(_pipe, id="pipe"),
    ],
)
def test_what_cannot_be_believed_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, plant: Callable[[Path], object]
) -> None:
    """Somebody else may have read it, or written it; the log says why, and not what."""
    plant(tmp_path)
    with caplog.at_level(logging.WARNING):
        token = admintoken.kept_or_made(tmp_path)
    assert token != GOOD
    path = tmp_path / admintoken.NAME
    assert not path.is_symlink()
    assert (path.read_text(), path.stat().st_mode & 0o777) == (f"{token}\n", 0o600)
    assert "is replaced" in caplog.text
    assert token not in caplog.text
    assert GOOD not in caplog.text


def test_another_users_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever gave it to us knows it."""
    planted(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(admintoken.Unfit, match="another user"):
        admintoken.read(tmp_path)
    assert admintoken.kept_or_made(tmp_path) != GOOD


def test_where_it_cannot_be_written_it_stays_in_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A full disk keeps no server from starting: here a directory stands in the way, which stops root, too."""
    (tmp_path / admintoken.NAME / "in the way").mkdir(parents=True)
    token = admintoken.kept_or_made(tmp_path)
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", token)
    assert "cannot be written" in caplog.text
    assert token not in caplog.text
    assert [each.name for each in tmp_path.iterdir()] == [admintoken.NAME]


def test_what_a_start_left_half_done_is_no_obstacle(tmp_path: Path) -> None:
    """A kill between making and renaming it."""
    (tmp_path / f"{admintoken.NAME}.new").write_text("half")
    token = admintoken.kept_or_made(tmp_path)
    assert admintoken.read(tmp_path) == token
    assert [each.name for each in tmp_path.iterdir()] == [admintoken.NAME]
