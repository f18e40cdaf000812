"""uv's own ways: lock files that move between the proxy and its upstream, --refresh, --exclude-newer, many at once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import uv

from tests.harness.assortment import TAKEN, WANTED, assortment, taken
from tests.harness.clients import Pip, installed_through
from tests.harness.desk import Desk
from tests.harness.packages import Distribution, wheel
from tests.harness.server import ProxyServer
from tests.harness.upstream import Upstream

UV = uv.find_uv_bin()
OLD, NEW = "2026-01-02T03:04:05.678901Z", "2026-06-01T00:00:00Z"
BETWEEN = "2026-03-01T00:00:00Z"

StartProxy = Callable[..., ProxyServer]
MakeDesk = Callable[[], Desk]


def install(desk: Desk, proxy: ProxyServer, *words: str) -> str:
    """``uv pip install`` into the desk's environment; what it said."""
    return desk.run(UV, "pip", "install", "--python", desk.python, *words, UV_DEFAULT_INDEX=proxy.index_url)


def swap(text: str, proxy: ProxyServer, upstream: Upstream) -> str:
    """The lock file with the proxy's two prefixes replaced, as README says: files, then the index."""
    text = text.replace(f'"{proxy.url}/files/test/', '"http://')
    return text.replace(f'"{proxy.index_url}"', f'"{upstream.origin}/simple"')


def swap_back(text: str, proxy: ProxyServer, upstream: Upstream) -> str:
    """The other way."""
    text = text.replace('url = "http://', f'url = "{proxy.url}/files/test/')
    return text.replace(f'"{upstream.origin}/simple"', f'"{proxy.index_url}"')


def test_lock_files_move_by_swapping_prefixes(upstream: Upstream, start_proxy: StartProxy, desk: MakeDesk) -> None:
    """A lock made here is the upstream's own with other prefixes: either holds at the other place, byte for byte."""
    upstream.index.add(*assortment())
    proxy = start_proxy(upstream)
    here, there = proxy.index_url, f"{upstream.origin}/simple"

    def lock(index: str) -> tuple[Desk, str]:
        one = desk()
        one.write_project(*WANTED)
        one.run(UV, "lock", UV_DEFAULT_INDEX=index)
        return one, one.read("uv.lock")

    at_proxy, ours = lock(here)
    at_upstream, theirs = lock(there)
    assert swap(ours, proxy, upstream) == theirs
    assert swap_back(theirs, proxy, upstream) == ours
    for one, text, index in ((at_proxy, theirs, there), (at_upstream, ours, here)):
        one.write("uv.lock", text)
        one.run(UV, "lock", "--check", UV_DEFAULT_INDEX=index)
        one.run(UV, "sync", "--locked", UV_DEFAULT_INDEX=index)
        assert one.read("uv.lock") == text
        assert one.versions(list(TAKEN)) == TAKEN
    # The upstream's lock under the proxy is not the proxy's: unswapped it does not hold.
    at_upstream.write("uv.lock", theirs)
    assert at_upstream.attempt(UV, "sync", "--locked", UV_DEFAULT_INDEX=here).returncode != 0


def test_refresh_asks_the_upstream_again(upstream: Upstream, start_proxy: StartProxy, desk: MakeDesk) -> None:
    """A fresh page costs nothing; with --refresh it is revalidated; what was new there is found."""
    upstream.index.add(wheel("thing"))
    proxy = start_proxy(upstream, settings={"freshness": {"min_reload_interval": "0s"}})
    one = desk()
    one.make_venv()
    install(one, proxy, "thing")
    upstream.forget()
    one.run(UV, "pip", "uninstall", "thing")
    install(one, proxy, "thing")
    assert upstream.log == []
    one.run(UV, "pip", "uninstall", "thing")
    install(one, proxy, "--refresh", "thing")
    (asked,) = upstream.log
    assert (asked.path, asked.status) == ("/simple/thing/", 304)
    assert "if-none-match" in asked.headers
    upstream.index.add(wheel("thing", "2.0"))
    install(one, proxy, "--upgrade", "--refresh", "thing")
    assert one.versions(["thing"]) == {"thing": "2.0"}
    assert [each.status for each in upstream.asked("/simple/")] == [304, 200]


def test_pip_refreshes_one_package(new_pip: Pip, upstream: Upstream, start_proxy: StartProxy, desk: MakeDesk) -> None:
    """What uv does with --refresh, the newest pip does with --refresh-package."""
    upstream.index.add(wheel("thing"))
    proxy = start_proxy(upstream, settings={"freshness": {"min_reload_interval": "0s"}})
    one = desk()
    one.make_venv()
    url = {"PIP_INDEX_URL": proxy.index_url}
    one.pip(new_pip, "install", "thing", **url)
    upstream.index.add(wheel("thing", "2.0"))
    one.pip(new_pip, "install", "--upgrade", "thing", **url)
    assert one.versions(["thing"]) == {"thing": "1.0"}
    one.pip(new_pip, "install", "--upgrade", "--refresh-package", "thing", "thing", **url)
    assert one.versions(["thing"]) == {"thing": "2.0"}


def test_a_second_run_gets_304(upstream: Upstream, start_proxy: StartProxy, desk: MakeDesk) -> None:
    """uv revalidates what its cache holds, and takes the 304 it gets: it fails on one without its validators."""
    upstream.index.add(*assortment())
    upstream.index.page_cache_control = "max-age=0"
    proxy = start_proxy(upstream, settings={"freshness": {"min_reload_interval": "0s"}})
    one = desk()
    one.make_venv()
    install(one, proxy, *WANTED)
    proxy.forget()
    install(one, proxy, "--upgrade", "--reinstall", *WANTED)
    assert one.versions(list(TAKEN)) == TAKEN
    seen = proxy.wait_for_log(lambda lines: len([1 for each in lines if each.get("status") == 304]) >= len(TAKEN))
    pages = [each for each in seen if str(each.get("path", "")).startswith("/simple/")]
    assert {(each["path"], each["status"]) for each in pages} == {(f"/simple/{name}/", 304) for name in TAKEN}


@pytest.mark.parametrize("client", ["uv", "pip"])
def test_an_older_release_by_its_upload_time(
    client: str, upstream: Upstream, start_proxy: StartProxy, desk: MakeDesk, request: pytest.FixtureRequest
) -> None:
    """--exclude-newer and --uploaded-prior-to take what was there at that time."""
    upstream.index.add(wheel("thing", "1.0", upload_time=OLD), wheel("thing", "2.0", upload_time=NEW))
    proxy = start_proxy(upstream)
    one = desk()
    one.make_venv()
    for limit, version in ((BETWEEN, "1.0"), (None, "2.0")):
        if client == "uv":
            install(one, proxy, *(["--exclude-newer", limit] if limit else ["--upgrade"]), "thing")
        else:
            words = ["--uploaded-prior-to", limit] if limit else ["--upgrade"]
            pip = request.getfixturevalue("new_pip")
            one.pip(pip, "install", *words, "thing", PIP_INDEX_URL=proxy.index_url)
        assert one.versions(["thing"]) == {"thing": version}


def test_wheels_without_core_metadata(upstream: Upstream, start_proxy: StartProxy, desk: MakeDesk) -> None:
    """uv sends HEAD and a Range for the tail, then wants the whole: the upstream sends each wheel once."""
    chain = [
        wheel("top", requires=["middle"], padding=200_000),
        wheel("middle", requires=["leaf"], padding=200_000),
        wheel("leaf", padding=200_000),
    ]
    upstream.index.add(*chain)
    upstream.index.core_metadata = False
    proxy = start_proxy(upstream)
    one = desk()
    one.make_venv()
    install(one, proxy, "top")
    assert one.versions(["top", "middle", "leaf"]) == {"top": "1.0", "middle": "1.0", "leaf": "1.0"}
    seen = proxy.requests("/files/")
    assert {each["method"] for each in seen} == {"HEAD", "GET"}
    assert len([each for each in seen if each["status"] == 206]) >= len(chain)
    assert [upstream.count(None, upstream.path_of(each)) for each in chain] == [1, 1, 1]


def test_many_at_once(upstream: Upstream, start_proxy: StartProxy, desk: MakeDesk) -> None:
    """Sixty projects over as many connections as uv opens: every page, metadata and file asked for once."""
    names = [f"one-{number}" for number in range(60)]
    made: list[Distribution] = [wheel(name, padding=20_000) for name in names]
    upstream.index.add(*made, wheel("all", requires=names))
    proxy = start_proxy(upstream)
    one = desk()
    one.make_venv()
    install(one, proxy, "all")
    asked = [each.path for each in upstream.log]
    assert sorted(asked) == sorted(
        path
        for each in [*made, *upstream.index.files_of("all")]
        for path in (
            f"/simple/{each.project}/",
            f"/packages/{each.project}/{each.filename}",
            f"/packages/{each.project}/{each.filename}.metadata",
        )
    )


def test_compile_for_every_platform(upstream: Upstream, start_proxy: StartProxy, desk: MakeDesk) -> None:
    """``uv pip compile --universal`` names hashes, and what it wrote installs with ``--require-hashes``."""
    upstream.index.add(*assortment())
    proxy = start_proxy(upstream)
    one = desk()
    one.make_venv()
    one.write("wanted.in", "\n".join(WANTED))
    index = {"UV_DEFAULT_INDEX": proxy.index_url}
    one.run(UV, "pip", "compile", "--universal", "--generate-hashes", "wanted.in", "-o", "pinned.txt", **index)
    for each in taken():
        assert f"--hash=sha256:{each.sha256}" in one.read("pinned.txt")
    install(one, proxy, "--require-hashes", "-r", "pinned.txt")
    assert one.versions(list(TAKEN)) == TAKEN
    installed_through(proxy, upstream, [each.filename for each in taken()])
