"""A proxy whose cache has a small filesystem of its own, and the operator and clients who see what comes of that."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.harness.fetch import Fetched, fetch
from tests.harness.packages import Distribution, blob
from tests.harness.server import ROOT, ProxyServer
from tests.harness.smalldisk import SmallDisk
from tests.harness.upstream import Upstream
from tests.harness.waiting import eventually
from tests.harness.world import World


@dataclass(frozen=True, slots=True)
class SmallPlace(World):
    """A world whose proxy, which is not started yet, has its cache on a small disk."""

    disk: SmallDisk

    def admin(self, verb: str, asked: Mapping[str, Any], token: str | None = None) -> Fetched:
        """A change over the admin API, with the token that lies in the cache directory."""
        token = (self.proxy.cache / "admin.token").read_text().strip() if token is None else token
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        return fetch(f"{self.proxy.url}/admin/cache/{verb}", headers, "POST", body=json.dumps(asked).encode())

    def done(self, verb: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What a change says that worked."""
        answer = self.admin(verb, asked)
        assert answer.status == 200, answer.body
        told: dict[str, Any] = json.loads(answer.body)
        return told

    def download(self, file: Distribution) -> Fetched:
        """Its page and the file, both right."""
        listed = self.page(file.project)
        assert (listed.status, file.filename.encode() in listed.body) == (200, True)
        answer = self.file(file)
        assert (answer.status, answer.complete, answer.sha256) == (200, True, file.sha256)
        return answer

    def keep(self, *files: Distribution) -> None:
        """All downloaded, and their rows committed: a client has its file before that."""
        for file in files:
            self.download(file)
        for file in files:
            eventually(partial(self.cached, file), "it is kept")

    def cached(self, file: Distribution) -> bool:
        """Whether the file is served from the cache; it is fetched for it when not."""
        return self.download(file).hit

    def readiness(self) -> dict[str, str]:
        """What /readyz says."""
        told: dict[str, str] = json.loads(fetch(f"{self.proxy.url}/readyz").body)
        return told

    def fill(self) -> None:
        """Fills the disk and has the proxy find out by pages that it serves and cannot keep. (A file that it cannot
        keep would have it evict others for that.)"""
        self.disk.fill()
        for number in range(1000):
            extra = self.publish(blob(f"extra{number}", size=1000))
            assert self.page(extra.project).status == 200
            if self.readiness()["status"] == "degraded":
                break
        self.disk.fill()
        assert self.readiness() == {"status": "degraded", "because": "the disk is full"}

    @contextmanager
    def asked_all_along(self, file: Distribution) -> Iterator[None]:
        """Somebody installs the whole time, and gets right pages and right files."""
        stop, failures = threading.Event(), list[BaseException]()

        def ask() -> None:
            try:
                while not stop.is_set():
                    self.download(file)
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


@contextmanager
def small_place(directory: Path, upstream: Upstream, size: int, **cache: Any) -> Iterator[SmallPlace]:
    """A disk of so many bytes and a proxy, not started, with its cache there; ``cache`` are settings of ``[cache]``."""
    with SmallDisk(directory / "disk", size) as disk:
        limits = {"breaker_failures": 1_000_000}
        settings = {"cache": {"dir": os.fspath(disk.path / "cache"), **cache}, "limits": limits}
        proxy = ProxyServer(directory / "proxy", {"test": upstream.url}, settings=settings)
        proxy.prefix = disk.prefix(ROOT)
        proxy.cache = disk.seen / "cache"
        try:
            yield SmallPlace(proxy, upstream, disk)
        finally:
            proxy.kill()
