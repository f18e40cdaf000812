"""A few small packages from the index that is proxied when nothing is configured."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

import pytest

from tests.harness.clients import Fresh, Installer, file_names, uv_lock
from tests.harness.desk import Desk
from tests.harness.fetch import fetch
from tests.harness.server import ProxyServer
from tests.harness.toolbox import Tool
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


def test_the_json_api(start_proxy: Callable[..., ProxyServer]) -> None:
    """A project's document beside the Simple API, and a file that it names."""
    proxy = start_proxy()
    got = fetch(f"{proxy.url}/pypi/six/json")
    assert got.status == 200, got.body
    files = json.loads(got.body)["urls"]
    wheel = next(each for each in files if each["filename"].endswith(".whl"))
    assert all(each["url"].startswith(f"{proxy.url}/files/") for each in files)
    assert fetch(wheel["url"]).sha256 == wheel["digests"]["sha256"]


def shelf(desk: Desk, proxy: ProxyServer, project: str) -> None:
    """The wheel came by the proxy, and it is in the project's environment."""
    proxy.wait_for_log(lambda lines: project in projects(file_names(lines)))
    desk.run(desk.python, "-c", f"import {project}")
    assert "error" not in {line["outcome"] for line in proxy.requests()}


def test_poetry(poetry: Tool, start_proxy: Callable[..., ProxyServer], desk: Callable[[], Desk]) -> None:
    """poetry add, with the proxy as its one source."""
    proxy, one = start_proxy(), desk()
    one.write_project(more="[tool.poetry]\npackage-mode = false\n")
    one.run(poetry.command(), "source", "add", "--priority=primary", "cache", proxy.index_url)
    one.run(poetry.command(), "add", "six")
    shelf(one, proxy, "six")
    assert 'name = "six"' in one.read("poetry.lock")


def test_pdm(pdm: Tool, start_proxy: Callable[..., ProxyServer], desk: Callable[[], Desk]) -> None:
    """pdm add."""
    proxy, one = start_proxy(), desk()
    one.write_project()
    one.run(pdm.command(), "add", "--no-self", "idna", PDM_PYPI_URL=proxy.index_url)
    shelf(one, proxy, "idna")
    assert 'name = "idna"' in one.read("pdm.lock")


def test_pip_tools(pip_tools: Tool, start_proxy: Callable[..., ProxyServer], desk: Callable[[], Desk]) -> None:
    """pip-compile takes every hash from the JSON API; what it wrote installs by them."""
    proxy, one = start_proxy(), desk()
    one.write("requirements.in", "six==1.17.0")
    one.run(pip_tools.command(), "--generate-hashes", "--strip-extras", PIP_INDEX_URL=proxy.index_url)
    # The wheel and the source distribution.
    assert one.read("requirements.txt").count("--hash=sha256:") == 2
    assert [line["status"] for line in proxy.requests("/six/json")] == [200]
    python = one.make_venv()
    one.run(
        pip_tools.bin / "python", "-m", "pip", "--python", python, "install", "--require-hashes", "-r",
        "requirements.txt", PIP_INDEX_URL=proxy.index_url,
    )  # fmt: skip
    shelf(one, proxy, "six")
