"""``check --deep``: without a server everything is verified here and now, with one the server is told to do it."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from proxy import cli
from proxy.directory import ROOMS, claim, release
from proxy.room import Row
from proxy.store import Store
from tests.harness.server import ProxyServer
from tests.keeping import TAG, files_in, keep, open_store, query

BODY = b"body" * 10_000


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of settings; the cache has a body in each of its rooms, and a page."""
    for name in [name for name in os.environ if name.upper().startswith("PIPCACHEPROXY_")]:
        monkeypatch.delenv(name)
    path = tmp_path / "config.toml"
    path.write_text(f'[cache]\ndir = "{tmp_path / "cache"}"\nballast = 0\n')
    filled(lambda store: asyncio.gather(*(keep(store, "six", BODY, room=room) for room in ROOMS)), tmp_path)
    return path


def filled(work: Callable[[Store], Awaitable[object]], directory: Path) -> None:
    """Do that with the store, and write two values."""

    async def fill() -> None:
        store: Store = await open_store(directory / "cache")
        await work(store)
        await store.write([Row("value", b"value", TAG), Row("other", b"other", TAG)])
        await store.close()

    asyncio.run(fill())


def deep(config: Path) -> int:
    """Run it; the exit code."""
    return cli.main(["check", "--deep", "--config", str(config)])


def bodies(config: Path) -> list[Path]:
    """All of them, by room."""
    cache = config.parent / "cache"
    return [cache / room / name for room in ROOMS for name in files_in(cache / room)]


def test_a_sound_cache(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Everything is read; it is left as it was, and so is the lock."""
    assert deep(config) == 0
    assert capsys.readouterr().out.endswith("verified   3 files and 5 rows, 120 kB, all as they were kept\n")
    assert len(bodies(config)) == 3
    release(claim(config.parent / "cache"))


def test_what_is_damaged_is_named_and_removed(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A flipped bit, a lost end, a body that is gone, a row: each is a line, and the code is EX_DATAERR. The next time
    all is well."""
    first, second, third = bodies(config)
    first.write_bytes(b"Body" + BODY[4:])
    os.truncate(second, 10)
    third.unlink()
    query(config.parent / "cache/responses", "UPDATE Cache SET value = CAST('xxxxvalue' AS BLOB) WHERE key = 'value'")
    assert deep(config) == 65
    said = capsys.readouterr().out
    cache = config.parent / "cache"
    for path in (first, second, third):
        assert re.search(rf"^damaged    {re.escape(str(path.relative_to(cache)))}.*: removed$", said, re.MULTILINE)
    assert re.search(r"^damaged    responses: a row \(value\): removed$", said, re.MULTILINE)
    assert re.search(r"^verified   0 files and 5 rows, .* bytes$", said, re.MULTILINE)
    assert bodies(config) == []
    assert deep(config) == 0
    assert "verified   0 files and 1 rows" in capsys.readouterr().out


def test_a_cache_that_is_not_there(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is damaged in it, and nothing is made."""
    config.write_text(f'[cache]\ndir = "{config.parent / "none"}"\n')
    assert deep(config) == 0
    assert "verified   0 files and 0 rows" in capsys.readouterr().out
    assert not (config.parent / "none").exists()


def test_one_that_cannot_be_used(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The reason, in one line."""
    (config.parent / "cache/VERSION").write_text("99\n")
    assert deep(config) == 73
    assert capsys.readouterr().err.endswith("the cache directory was written by a newer version\n")


@pytest.mark.parametrize("every", ["7d", "0"])
def test_one_that_is_in_use(config: Path, capsys: pytest.CaptureFixture[str], every: str) -> None:
    """Its owner is told, or, where it never verifies, who asks is."""
    config.write_text(f'{config.read_text()}verify_every = "{every}"\n')
    mark = config.parent / "cache/verified"
    mark.touch()
    held = claim(config.parent / "cache")
    try:
        assert deep(config) == 75
    finally:
        release(held)
    (said,) = capsys.readouterr().err.splitlines()
    assert f"is in use by process {os.getpid()}, which" in said
    assert ("from now on" in said, mark.exists()) == (every == "7d", every == "0")


@pytest.mark.slow
def test_a_server_is_told_to_do_it(tmp_path: Path) -> None:
    """It looks through everything soon, and its log and metrics tell what it found."""
    filled(lambda store: keep(store, "six", BODY), tmp_path)
    with ProxyServer(tmp_path, settings={"cache": {"verify_every": "0.2s"}}) as proxy:
        proxy.wait_for_log(lambda lines: [each for each in lines if each["event"] == "verified"])
        (path,) = proxy.stored()
        path.write_bytes(b"Body" + BODY[4:])
        lines = proxy.wait_for_log(lambda lines: [each for each in lines if each.get("damaged") == 1])
        (damaged,) = [each for each in lines if each["event"] == "damaged"]
        assert (damaged["room"], damaged["level"]) == ("wheels", "error")
        assert str(path).endswith(damaged["file"])
        assert proxy.stored() == []
