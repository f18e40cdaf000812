"""A few small packages from the index that is proxied when nothing is configured."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from tests.harness.clients import Fresh, Installer, file_names, uv_lock
from tests.harness.server import ProxyServer
from tests.harness.waiting import eventually

pytestmark = [pytest.mark.network, pytest.mark.usefixtures("default_upstream")]


WANTED = ("six", "idna", "packaging")


def projects(names: Iterable[str]) -> set[str]:
    """The projects of wheels, without their core metadata."""
    return {name.partition("-")[0] for name in names if name.endswith(".whl")}


def test_install_twice_and_offline(
    installer: Installer, start_proxy: Callable[..., ProxyServer], fresh: Callable[[], Fresh]
) -> None:
    """Cold, warm with empty client caches, offline after a restart: every file by the proxy, then from it."""
    proxy = start_proxy()
    for attempt in ("cold", "warm", "offline"):
        if attempt == "offline":
            proxy.restart(arguments=("--offline",))
        proxy.forget()
        done = installer.install(fresh(), proxy.index_url, *WANTED)
        assert done.returncode == 0, done.stdout
        proxy.wait_for_log(lambda lines: set(WANTED) <= projects(file_names(lines)))
        eventually(lambda: projects(path.name for path in proxy.stored()) == set(WANTED), "files are kept")
        outcomes = {line["outcome"] for line in proxy.requests("/files/")}
        assert bool(outcomes & {"miss", "relay"}) is (attempt == "cold")
        assert "error" not in outcomes


def test_uv_lock(start_proxy: Callable[..., ProxyServer], fresh: Callable[[], Fresh]) -> None:
    """uv resolves against the pages, and the lock names the proxy."""
    proxy = start_proxy()
    client = fresh()
    done = uv_lock(client, proxy.index_url, "six", "idna")
    assert done.returncode == 0, done.stdout
    assert f"{proxy.url}/files/" in (client.directory / "project" / "uv.lock").read_text()
