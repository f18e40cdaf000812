"""Trees of files behind real servers, as people have them: Python's own http.server, and nginx."""

from __future__ import annotations

import io
import re
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.harness.fronts import PATIENCE, found, free_port, listens
from tests.harness.server import ProxyServer
from tests.harness.waiting import eventually

# Lists carry neither length nor validators, files an ETag and Last-Modified; what is packed is a variant.
_NGINX = """\
daemon off;
master_process off;
pid {directory}/pid;
error_log stderr warn;
events {{ worker_connections 512; }}
http {{
    access_log {directory}/asked;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    types {{ text/html html; text/plain txt; }}
    default_type application/octet-stream;
    gzip on;
    gzip_vary on;
    gzip_min_length 1;
    gzip_proxied any;
    gzip_types text/plain;
    server {{
        listen 127.0.0.1:{port};
        root {root};
        autoindex on;
    }}
}}
"""


class Tree:
    """A context manager: serves the files below ``root``, at the same port each time; ``program`` is "http.server",
    which speaks HTTP/1.0, or "nginx". Stopped means killed: connections are refused."""

    def __init__(self, program: str, directory: Path) -> None:
        self.root = directory / "tree"
        self.root.mkdir(parents=True)
        self.port = free_port()
        self._program = program
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        print(f"--- what the tree was asked:\n{self.asked[-5000:]}")

    @property
    def url(self) -> str:
        """Of the root, with a slash at the end."""
        return f"http://127.0.0.1:{self.port}/"

    @property
    def asked(self) -> str:
        """Its access log."""
        return (self._directory / "asked").read_text(errors="replace")

    def write(self, name: str, data: bytes) -> Path:
        """A file below the root."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def start(self) -> None:
        """Returns once it listens."""
        with (self._directory / "asked").open("ab") as asked:
            self._process = subprocess.Popen(
                self._command(), cwd=self._directory, stdin=subprocess.DEVNULL, stdout=asked, stderr=asked
            )
        eventually(lambda: listens(self.port), "the tree listens", PATIENCE)

    def stop(self) -> None:
        """Kills it, and waits for its end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE)

    def _command(self) -> list[str]:
        if self._program == "http.server":
            words = ["-u", "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(self.root), str(self.port)]
            return [sys.executable, *words]
        config = self._directory / "nginx.conf"
        config.write_text(_NGINX.format(directory=self._directory, port=self.port, root=self.root))
        return [found("nginx"), "-e", "stderr", "-p", str(self._directory), "-c", str(config)]


def kept(proxy: ProxyServer, mount: str, *rests: str) -> None:
    """Waits until all of these are kept, without asking for one: rows come after bodies, and what finds them last."""
    wanted = {f"variants|{mount}|{rest}" for rest in rests}

    def listed() -> bool:
        with closing(sqlite3.connect(proxy.cache / "responses" / "cache.db", timeout=PATIENCE)) as connection:
            return wanted <= {key for (key,) in connection.execute("SELECT key FROM Cache")}

    eventually(listed, f"{rests} are kept", PATIENCE)


def python_build(version: str, says: str) -> bytes:
    """What uv takes for a Python of that version, as a tar.gz: its ``python3`` says that line and ends. uv looks for
    the build's settings, too."""
    series = ".".join(version.split(".")[:2])
    settings = "# system configuration generated and used by the sysconfig module\nbuild_time_vars = {'CC': 'cc'}\n"
    files: Mapping[str, str] = {
        f"python/bin/python{series}": f"#!/bin/sh\necho '{says}'\n",
        f"python/lib/python{series}/_sysconfigdata__linux_.py": settings,
    }
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(text), 0o755
            archive.addfile(member, io.BytesIO(text.encode()))
    return packed.getvalue()


def list_of_builds(builds: list[Mapping[str, str]], url: str, version: str, sha256: str) -> dict[str, object]:
    """uv's list of downloads with one in it: for this machine's platform, which ``builds``, uv's own list, says."""
    here = next(each for each in builds if each["implementation"] == "cpython" and each["variant"] == "default")
    major, minor, patch = re.findall(r"\d+", version)
    entry = {
        "name": "cpython",
        "arch": {"family": here["arch"], "variant": None},
        "os": here["os"],
        "libc": here["libc"],
        "major": int(major),
        "minor": int(minor),
        "patch": int(patch),
        "prerelease": "",
        "url": url,
        "sha256": sha256,
        "variant": None,
        "build": "20260101",
    }
    return {f"cpython-{version}-{here['os']}-{here['arch']}-{here['libc']}": entry}
