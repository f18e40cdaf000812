"""nginx as an ideal front of PyPI: what it keeps is rewritten and compressed already, so a hit is one sendfile.

Two layers in one process group of two workers: the outer keeps what the inner has rewritten (sub_filter) and packed
(gzip). The usual configuration of one layer does both again on every hit.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from tests.bench.servers import HOST, cpu_of, free_port, rss_of

_JSON = "application/vnd.pypi.simple.v1+json"
_PROGRAM = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
_CONFIGURATION = """
daemon off; worker_processes 2; pid {place}/pid; error_log {place}/error.log; {user}
events {{ worker_connections 4096; }}
http {{
  access_log {place}/access.log combined buffer=64k flush=1s;
  client_body_temp_path {place}/body; proxy_temp_path {place}/temp; fastcgi_temp_path {place}/f;
  uwsgi_temp_path {place}/u; scgi_temp_path {place}/s;
  sendfile on; tcp_nopush on; keepalive_requests 1000000000; server_tokens off;
  proxy_http_version 1.1; proxy_set_header Connection ""; proxy_cache_lock on; proxy_cache_lock_timeout 300s;
  proxy_cache_lock_age 300s; proxy_max_temp_file_size 4096m; open_file_cache max=10000;
  proxy_cache_path {place}/outer levels=1:2 use_temp_path=off keys_zone=outer:64m max_size=20g inactive=1d;
  proxy_cache_path {place}/inner levels=1:2 use_temp_path=off keys_zone=inner:64m max_size=20g inactive=1d;
  map $http_accept_encoding $packed {{ default ""; ~gzip gzip; }}
  upstream pages {{ server {pages}; keepalive 64; }}
  upstream files {{ server {files}; keepalive 64; }}
  upstream rewritten {{ server {host}:{inner}; keepalive 64; }}
  server {{
    listen {host}:{port};
    location = /healthz {{ return 200; }}
    location /simple/ {{
      proxy_pass http://rewritten; proxy_set_header Accept-Encoding $packed; proxy_cache outer;
      proxy_cache_key $uri$packed$http_accept; proxy_cache_valid 200 10m; proxy_ignore_headers Vary;
    }}
    location /packages/ {{ proxy_pass http://files; proxy_cache outer; proxy_cache_valid 200 1d; }}
  }}
  server {{
    listen {host}:{inner};
    location /simple/ {{
      proxy_pass http://pages; proxy_set_header Accept-Encoding ""; proxy_set_header Host {pages}; proxy_cache inner;
      proxy_cache_key $uri$http_accept; proxy_cache_valid 200 10m; proxy_ignore_headers Vary;
      sub_filter http://{files}/ /; sub_filter_once off; sub_filter_types {json}; sub_filter_last_modified on;
      gzip on; gzip_types {json}; gzip_comp_level 6; gzip_http_version 1.0; gzip_proxied any; gzip_min_length 1;
    }}
  }}
}}
"""


def installed() -> bool:
    """Whether there is an nginx here (Debian's package nginx-light has all that is needed)."""
    return _PROGRAM is not None


def version() -> str:
    """As it says itself."""
    assert _PROGRAM is not None
    said = subprocess.run([_PROGRAM, "-v"], stderr=subprocess.PIPE, text=True, check=True).stderr
    return said.rpartition("/")[2].strip()


class Ideal:
    """A context manager: it answers inside, and is ended, by its id, outside. ``origin`` and ``files_url`` are the
    upstream's."""

    def __init__(self, place: Path, origin: str, files_url: str) -> None:
        place.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        self.first_answer = 0.0
        self._written = place / "nginx.conf"
        places = {"place": place, "host": HOST, "port": self.port, "inner": free_port(), "json": _JSON}
        behind = {"pages": urlsplit(origin).netloc, "files": urlsplit(files_url).netloc}
        user = "user root;" if os.geteuid() == 0 else ""
        self._written.write_text(_CONFIGURATION.format(**places, **behind, user=user))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        assert _PROGRAM is not None
        began = time.perf_counter()
        words = [_PROGRAM, "-c", str(self._written), "-e", str(self._written.with_name("error.log"))]
        self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL)
        while not self._listens():
            if self._process.poll() is not None or time.perf_counter() - began > 10:
                self.__exit__(None, None, None)
                raise RuntimeError(f"nginx: {self._written.with_name('error.log').read_text()[-1000:]}")
            time.sleep(0.005)
        self.first_answer = time.perf_counter() - began
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def cpu(self) -> float:
        """Seconds of CPU that all its processes have used."""
        return sum(cpu_of(pid) for pid in self._pids())

    def rss(self) -> int:
        """Resident memory of all its processes now, in bytes; what they share counts for each."""
        return sum(rss_of(pid) for pid in self._pids())

    def _pids(self) -> list[int]:
        assert self._process is not None
        main = self._process.pid
        return [main, *map(int, Path(f"/proc/{main}/task/{main}/children").read_text().split())]

    def _listens(self) -> bool:
        with socket.socket() as tried:
            return tried.connect_ex((HOST, self.port)) == 0
