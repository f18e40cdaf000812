"""Real front proxies, run with the files in deploy/: only names, ports and certificates are put in."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.harness.certificates import Pair
from tests.harness.server import ROOT
from tests.harness.waiting import eventually

DEPLOY = ROOT / "deploy"
PATIENCE = 20.0

# One process without privileges, everything it writes in its own directory.
_NGINX = """\
daemon off;
master_process off;
pid {directory}/pid;
error_log stderr warn;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    include {directory}/nginx.conf;
}}
"""
_CADDY = """\
{{
	admin off
	auto_https off
	storage file_system {directory}/storage
}}
"""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def listens(port: int) -> bool:
    """Whether somebody listens on that TCP port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE).close()
    except ConnectionRefusedError:
        return False
    return True


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    """The text with each of these once put in place of the other; AssertionError where one is not there once."""
    for old, new in pairs:
        assert len(re.findall(re.escape(old), text)) == 1, f"{old!r} is not there once"
        text = text.replace(old, new)
    return text


class Front:
    """A context manager: a front proxy that listens on ``127.0.0.1:port`` inside and is ended outside.

    ``behind`` is the proxy's ``host:port``, or nginx's ``unix:`` and a path. ``changes`` are further replacements in
    the file from deploy/. nginx listens on ``tls_port``, too, with the certificate of ``pair``.
    """

    def __init__(
        self,
        program: str,
        directory: Path,
        behind: str,
        port: int,
        *,
        pair: Pair | None = None,
        changes: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.directory = directory
        self.port = port
        self.tls_port = free_port()
        directory.mkdir(parents=True, exist_ok=True)
        make = {"nginx": self._nginx, "caddy": self._caddy}[program]
        self._command = make(behind, pair, changes)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with (self.directory / "said").open("wb") as said:
            environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(self.directory)}
            self._process = subprocess.Popen(
                self._command, cwd=self.directory, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said
            )
        eventually(self._listens, "the front proxy listens", PATIENCE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE)
        print(f"--- what the front proxy said:\n{self.said[-5000:]}")

    @property
    def said(self) -> str:
        """Its own log."""
        return (self.directory / "said").read_text(errors="replace")

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.said
        return listens(self.port)

    def _nginx(self, behind: str, pair: Pair | None, changes: Sequence[tuple[str, str]]) -> list[str]:
        assert pair is not None
        text = replaced(
            (DEPLOY / "nginx.conf").read_text(),
            ("server 127.0.0.1:3143;", f"server {behind};"),
            ("listen 443 ssl;", f"listen 127.0.0.1:{self.port}; listen 127.0.0.1:{self.tls_port} ssl;"),
            ("/etc/ssl/example.com.pem", str(pair.certificate)),
            ("/etc/ssl/example.com.key", str(pair.key)),
            *changes,
        )
        (self.directory / "nginx.conf").write_text(text)
        main = self.directory / "main.conf"
        main.write_text(_NGINX.format(directory=self.directory))
        return [found("nginx"), "-e", "stderr", "-p", str(self.directory), "-c", str(main)]

    def _caddy(self, behind: str, pair: Pair | None, changes: Sequence[tuple[str, str]]) -> list[str]:
        text = replaced(
            (DEPLOY / "Caddyfile").read_text(),
            ("reverse_proxy 127.0.0.1:3143 {", f"reverse_proxy {behind} {{"),
            ("\nexample.com {", f"\nhttp://127.0.0.1:{self.port} {{"),
            *changes,
        )
        file = self.directory / "Caddyfile"
        file.write_text(_CADDY.format(directory=self.directory) + text)
        return [found("caddy"), "run", "--config", str(file), "--adapter", "caddyfile"]


def found(program: str) -> str:
    """Where the program is. AssertionError where it is not installed."""
    path = shutil.which(program, path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    assert path is not None, f"{program} is not installed"
    return path


def installed(program: str) -> bool:
    """Whether this machine has it; nginx hides in /usr/sbin."""
    return shutil.which(program, path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin") is not None
