"""Where the tokens of the admin API come from, and that no output has them."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.harness.fetch import fetch
from tests.harness.server import ROOT, ProxyServer, clean_environment, toml

CANARY = "canary5f2e"
TOKEN, OTHER = f"{CANARY}-one-".ljust(40, "1"), f"{CANARY}-two-".ljust(40, "2")
Start = Callable[..., ProxyServer]


def status(proxy: ProxyServer, token: str, method: str = "GET", verb: str = "dir") -> int:
    """What a request with that token comes to."""
    return fetch(f"{proxy.url}/admin/cache/{verb}", {"Authorization": f"Bearer {token}"}, method).status


def test_one_is_made_where_none_is_configured(start_proxy: Start) -> None:
    """In the cache directory, for its owner alone; the same after a restart, another where it cannot be believed."""
    server = start_proxy()
    path = server.cache / "admin.token"
    token = path.read_text().strip()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (status(server, token), status(server, token, "POST", "purge")) == (200, 200)
    assert token not in server.stderr
    server.restart()
    assert path.read_text().strip() == token
    assert status(server, token) == 200
    path.chmod(0o644)
    server.restart()
    made = path.read_text().strip()
    assert made != token
    assert (status(server, made), status(server, token)) == (200, 403)
    assert "others may read it" in server.stderr
    assert not {token, made} & set(server.stderr.replace('"', " ").split())


def test_a_read_token_beside_the_one_that_is_made(start_proxy: Start) -> None:
    """Who should look only gets one of his own; the other is made all the same."""
    server = start_proxy(settings={"admin": {"read_token": TOKEN}})
    made = (server.cache / "admin.token").read_text().strip()
    assert (status(server, TOKEN), status(server, TOKEN, "POST", "purge")) == (200, 403)
    assert status(server, made, "POST", "purge") == 200
    assert TOKEN not in server.stderr


def test_a_configured_one_leaves_no_file(start_proxy: Start) -> None:
    """What an operator keeps elsewhere lies nowhere else."""
    server = start_proxy(settings={"admin": {"token": TOKEN}})
    assert status(server, TOKEN, "POST", "purge") == 200
    assert not (server.cache / "admin.token").exists()


def test_a_file_is_read_again_when_it_changes(start_proxy: Start, tmp_path: Path) -> None:
    """A token rotates without a restart; one that is too short leaves the last good one in force."""
    path, reading = tmp_path / "token", tmp_path / "read"
    path.write_text(f"{TOKEN}\n")
    reading.write_text(f"{OTHER}-read\n")
    server = start_proxy(settings={"admin": {"token_file": str(path), "read_token_file": str(reading)}})
    assert (status(server, TOKEN), status(server, f"{OTHER}-read"), status(server, OTHER)) == (200, 200, 403)
    path.write_text(f"{OTHER}\n")
    assert (status(server, OTHER), status(server, TOKEN)) == (200, 403)
    path.write_text("short\n")
    assert status(server, OTHER) == 200
    server.wait_for_log(lambda lines: [line for line in lines if "at least 32 characters" in str(line.get("message"))])
    assert CANARY not in server.stderr


def test_the_environment(start_proxy: Start) -> None:
    """As every setting, it goes before the file."""
    server = start_proxy(
        settings={"admin": {"token": TOKEN}},
        environment={"PIPCACHEPROXY_ADMIN__TOKEN": OTHER, "PIPCACHEPROXY_ADMIN__READ_TOKEN": f"{OTHER}-read"},
    )
    assert (status(server, OTHER), status(server, f"{OTHER}-read"), status(server, TOKEN)) == (200, 200, 403)
    assert CANARY not in server.stderr


def test_a_disk_that_does_not_take_it(start_proxy: Start, tmp_path: Path) -> None:
    """The server starts all the same: here a directory is in the way."""
    (tmp_path / "proxy0" / "cache" / "admin.token" / "x").mkdir(parents=True)
    (tmp_path / "proxy0" / "cache" / "VERSION").write_text("1\n")
    server = start_proxy()
    assert fetch(f"{server.url}/healthz").status == 200
    assert status(server, TOKEN) == 403
    assert "cannot be written" in server.stderr


def command(directory: Path, verb: str, text: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """``pip-cache-proxy serve`` or ``check`` with that file of settings."""
    config = directory / "config.toml"
    config.write_text(text)
    return subprocess.run(
        [sys.executable, "-m", "proxy", verb, "--config", str(config)],
        cwd=ROOT,
        env=clean_environment(environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_bad_one_is_a_bad_setting(tmp_path: Path) -> None:
    """78, one line that names the key, and nothing of the token."""
    for said in (
        command(tmp_path, "serve", f'[admin]\ntoken = "{CANARY}"\n'),
        command(tmp_path, "serve", "", PIPCACHEPROXY_ADMIN__TOKEN=CANARY),
        command(tmp_path, "check", f'[admin]\ntoken = "{TOKEN}"\nread_token = "{TOKEN}"\n'),
    ):
        assert said.returncode == 78
        (line,) = said.stderr.splitlines()
        assert "admin." in line
        assert CANARY not in said.stdout + said.stderr


def test_check_does_not_show_it(tmp_path: Path) -> None:
    """Its output is pasted into tickets."""
    settings = {"cache": {"dir": str(tmp_path / "cache")}, "admin": {"token": TOKEN, "read_token": OTHER}}
    said = command(tmp_path, "check", toml(settings, []))
    assert said.returncode == 0
    assert CANARY not in said.stdout + said.stderr
