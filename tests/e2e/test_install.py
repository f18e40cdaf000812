"""pip 23.2, the newest pip and uv install through the proxy, from every kind of upstream there is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.harness.clients import Fresh, Installer, Pip, installed_through, pip_download, uv_lock
from tests.harness.exchange import Exchange
from tests.harness.index import Index
from tests.harness.packages import Distribution, sdist, wheel
from tests.harness.server import ProxyServer
from tests.harness.upstream import Upstream
from tests.harness.waiting import eventually

StartProxy = Callable[..., ProxyServer]
MakeFresh = Callable[[], Fresh]

KINDS: dict[str, Callable[[Index], object]] = {
    "json": lambda index: index,
    "html-cross-host": lambda index: index.html_only("absolute"),
    "html-rooted": lambda index: index.html_only("rooted"),
    "html-relative": lambda index: index.html_only("relative"),
    "html-base": lambda index: index.html_only("base"),
    "html-bare": lambda index: index.html_only("relative").bare(),
    "bare": Index.bare,
    "no-store-files": lambda index: setattr(index, "file_cache_control", "no-store"),
    "no-store-pages": lambda index: setattr(index, "page_cache_control", "no-store"),
}


@pytest.fixture
def chain(upstream: Upstream) -> list[Distribution]:
    """Three wheels, each of which needs the next, and versions that must not be chosen."""
    made = [wheel("top", requires=["middle"]), wheel("middle", requires=["leaf>=1"]), wheel("leaf")]
    upstream.index.add(*made, wheel("leaf", "2.0", yanked="broken"), wheel("top", "9.0", requires_python=">=99"))
    return made


def install(client: Installer, fresh: Fresh, proxy: ProxyServer, *requirements: str) -> None:
    """Installs, or fails with the client's words."""
    done = client.install(fresh, proxy.index_url, *requirements)
    assert done.returncode == 0, done.stdout


def names(files: list[Distribution]) -> list[str]:
    """The files' names."""
    return [each.filename for each in files]


def kept(proxy: ProxyServer, files: list[Distribution]) -> None:
    """Waits until these files, and no others, are in the cache: adoption follows the last byte."""
    eventually(lambda: sorted(path.name for path in proxy.stored()) == sorted(names(files)), "files are kept")


def wheels_asked(upstream: Upstream) -> list[str]:
    """Paths of files the upstream was asked for."""
    return [each.path for each in upstream.asked("/packages/")]


@pytest.mark.parametrize("kind", KINDS)
def test_install_twice_from_every_kind_of_upstream(
    kind: str,
    installer: Installer,
    upstream: Upstream,
    chain: list[Distribution],
    start_proxy: StartProxy,
    fresh: MakeFresh,
) -> None:
    """All comes through the proxy; the second time, with empty client caches, no file is asked for."""
    KINDS[kind](upstream.index)
    proxy = start_proxy(upstream)
    for files_are_cached in (False, True):
        client = fresh()
        install(installer, client, proxy, "top")
        assert client.version_of("top") == client.version_of("middle") == client.version_of("leaf") == "1.0"
        installed_through(proxy, upstream, names(chain))
        assert bool(wheels_asked(upstream)) is not files_are_cached
        kept(proxy, chain)
        upstream.forget()
        proxy.forget()


def test_install_offline_after_a_restart(
    installer: Installer,
    upstream: Upstream,
    chain: list[Distribution],
    start_proxy: StartProxy,
    fresh: MakeFresh,
) -> None:
    """What was installed once installs without any upstream, in a new process, from an empty client."""
    proxy = start_proxy(upstream)
    install(installer, fresh(), proxy, "top")
    kept(proxy, chain)
    proxy.restart(arguments=("--offline",))
    upstream.forget()
    connections = upstream.connections
    client = fresh()
    install(installer, client, proxy, "top")
    assert client.version_of("leaf") == "1.0"
    installed_through(proxy, upstream, names(chain))
    assert (upstream.log, upstream.connections) == ([], connections)


def test_install_while_the_upstream_dies(
    installer: Installer,
    upstream: Upstream,
    chain: list[Distribution],
    start_proxy: StartProxy,
    fresh: MakeFresh,
) -> None:
    """The upstream is killed when it is asked for the second page: the last good pages carry the install."""
    upstream.index.page_cache_control = "max-age=0"
    proxy = start_proxy(upstream, settings={"freshness": {"min_reload_interval": "0s"}})
    install(installer, fresh(), proxy, "top")
    kept(proxy, chain)
    proxy.forget()

    def die(exchange: Exchange) -> None:
        upstream.stop()

    upstream.script("/simple/middle/", die)
    client = fresh()
    install(installer, client, proxy, "top")
    assert client.version_of("leaf") == "1.0"
    installed_through(proxy, upstream, names(chain))
    assert upstream.stopping


def test_install_an_sdist(installer: Installer, upstream: Upstream, start_proxy: StartProxy, fresh: MakeFresh) -> None:
    """A source distribution comes through, builds, and is kept."""
    made = sdist("only.source", "2.5")
    upstream.index.add(made)
    proxy = start_proxy(upstream)
    client = fresh()
    install(installer, client, proxy, "only-source")
    assert client.version_of("only_source") == "2.5"
    installed_through(proxy, upstream, [made.filename])
    kept(proxy, [made])


def test_install_from_another_index(
    installer: Installer, upstream: Upstream, start_proxy: StartProxy, fresh: MakeFresh
) -> None:
    """Every [[index]] is one of its own under /index/{name}/simple; what is on the other is not seen."""
    with Upstream(wheel("thing", "3.0")) as second:
        upstream.index.add(wheel("thing", "9.0"))
        proxy = start_proxy(indexes={"first": upstream.url, "second": second.url})
        client = fresh()
        done = installer.install(client, f"{proxy.url}/index/second/simple", "thing")
        assert done.returncode == 0, done.stdout
        assert client.version_of("thing") == "3.0"
        installed_through(proxy, second, ["thing-3.0-py3-none-any.whl"])
        assert upstream.log == []


def test_install_big_wheel_without_core_metadata(
    installer: Installer, upstream: Upstream, start_proxy: StartProxy, fresh: MakeFresh
) -> None:
    """Without metadata uv sends HEAD and Range, pip takes the wheel: the upstream sends it once."""
    upstream.index.bare()
    made = wheel("big", padding=3_000_000)
    upstream.index.add(made)
    proxy = start_proxy(upstream)
    client = fresh()
    install(installer, client, proxy, "big")
    assert client.version_of("big") == "1.0"
    installed_through(proxy, upstream, [made.filename])
    assert upstream.count("GET", upstream.path_of(made)) == 1


def test_missing_project_is_missing_for_the_client(
    installer: Installer, upstream: Upstream, start_proxy: StartProxy, fresh: MakeFresh
) -> None:
    """A 404 stays one: the client says that there is no such thing, and installs nothing."""
    proxy = start_proxy(upstream)
    done = installer.install(fresh(), proxy.index_url, "absent")
    assert done.returncode != 0
    proxy.wait_for_log(lambda lines: any(each.get("status") == 404 for each in lines))
    assert upstream.count("GET", "/simple/absent/") == 1


def test_uv_lock_names_the_proxy_and_repeats(
    upstream: Upstream, chain: list[Distribution], start_proxy: StartProxy, fresh: MakeFresh
) -> None:
    """uv.lock has the proxy's URL, hash and size of each file, and a check with an empty cache agrees."""
    proxy = start_proxy(upstream)
    client = fresh()
    done = uv_lock(client, proxy.index_url, "top")
    assert done.returncode == 0, done.stdout
    text = (client.directory / "project" / "uv.lock").read_text()
    for each in chain:
        assert f"{proxy.url}/files/test/{upstream.location(each)}" in text
        assert f"sha256:{each.sha256}" in text
        assert f"size = {each.size}" in text
    client.empty_caches()
    done = uv_lock(client, proxy.index_url, "top", extra=["--check"])
    assert done.returncode == 0, done.stdout
    assert {each.headers["user-agent"].partition("/")[0] for each in upstream.log} == {"pip-cache-proxy"}


def test_pip_download_has_the_very_bytes(
    new_pip: Pip, upstream: Upstream, chain: list[Distribution], start_proxy: StartProxy, fresh: MakeFresh
) -> None:
    """What pip download leaves is what the upstream has, bit for bit."""
    proxy = start_proxy(upstream)
    client = fresh()
    done = pip_download(new_pip, client, proxy.index_url, "top")
    assert done.returncode == 0, done.stdout
    for each in chain:
        assert (client.directory / "downloads" / each.filename).read_bytes() == each.data
    installed_through(proxy, upstream, names(chain))


def test_old_files_install_when_pages_forbid_storing(
    installer: Installer, upstream: Upstream, start_proxy: StartProxy, fresh: MakeFresh
) -> None:
    """A no-store page is not served again, but its listing is kept: its files stay within reach."""
    upstream.index.page_cache_control = "no-store"
    made = wheel("thing")
    upstream.index.add(made)
    proxy = start_proxy(upstream)
    install(installer, fresh(), proxy, "thing")
    kept(proxy, [made])
    upstream.stop()
    client = fresh()
    done = installer.install(client, proxy.index_url, proxy.file_url(upstream.location(made)))
    assert done.returncode == 0, done.stdout
    assert client.version_of("thing") == "1.0"
