"""What each client was seen to need, beyond that it works: its own headers, its own second request, its own resume."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from proxy.codings import decompress
from tests.harness.assortment import assortment
from tests.harness.clients import Pip
from tests.harness.desk import Desk
from tests.harness.index import JSON_V1
from tests.harness.packages import Distribution, sdist, wheel
from tests.harness.scissors import Scissors
from tests.harness.server import ProxyServer
from tests.harness.toolbox import Tool
from tests.harness.upstream import Upstream
from tests.harness.waiting import eventually
from tests.harness.world import World, fresh_name, world

StartProxy = Callable[..., ProxyServer]
MakeDesk = Callable[[], Desk]


@dataclass(frozen=True)
class Said:
    """A client's fields on pages and on files, as they were seen on the wire, and the type it has to be given."""

    agent: str
    accept: str
    coding: str
    file_accept: str
    file_coding: str
    type: str = JSON_V1


OF_PIP = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html; q=0.1, text/html; q=0.01"
OF_UV = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.01"
OF_POETRY = "application/vnd.pypi.simple.v1+json, */*;q=0.1"
CLIENTS = {
    "pip": Said("pip/26.3", OF_PIP, "gzip, deflate", "*/*", "identity"),
    "uv": Said("uv/0.13.9", OF_UV, "gzip, deflate, zstd", "*/*", "identity"),
    "poetry": Said("poetry/2.5.1", OF_POETRY, "gzip, deflate, zstd", "*/*", "Identity"),
    "pdm": Said("pdm/2.29.3", OF_PIP, "gzip, deflate", "*/*", "gzip, deflate"),
    "pipenv": Said("pip/26.3", OF_PIP, "gzip, deflate", "*/*", "identity"),
    "pipenv, second": Said("python-requests/2.34.2", "*/*", "gzip, deflate", "*/*", "gzip, deflate", "text/html"),
}
every_client = pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)


@pytest.fixture(scope="module")
def here(lane: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One proxy for the tests that speak for a client."""
    with world(tmp_path_factory.mktemp("needs")) as made:
        made.publish(*assortment())
        yield made


@every_client
def test_pages_as_each_client_asks(here: World, client: Said) -> None:
    """The type with the highest weight, in a coding that was named; a 304 with what the client needs to keep it."""
    headers = {"User-Agent": client.agent, "Accept": client.accept, "Accept-Encoding": client.coding}
    got = here.page("many", headers)
    assert got.status == 200
    assert got.headers["content-type"].partition(";")[0] == client.type
    coding = got.headers["content-encoding"]
    assert coding in client.coding.split(", ")
    plain = gzip.decompress(got.body) if coding == "gzip" else decompress(got.body, "zstd")
    files = [each for each in assortment() if each.project == "many"]
    assert all(each.filename.encode() in plain for each in files)
    if client.type == JSON_V1:
        listed = {each["filename"]: each for each in json.loads(plain)["files"]}
        assert {name: each["hashes"]["sha256"] for name, each in listed.items()} == {
            each.filename: each.sha256 for each in files
        }
        assert {each["size"] for each in listed.values()} == {each.size for each in files}
    else:
        assert plain.count(b"#sha256=") == len(files)
    # uv keeps ETag and Last-Modified, and fails on a 304 that has not both.
    validators = {name: got.headers[name] for name in ("etag", "last-modified") if name in got.headers}
    assert "etag" in validators
    again = here.page("many", headers | {"If-None-Match": got.headers["etag"]})
    assert (again.status, again.body) == (304, b"")
    assert {name: again.headers.get(name) for name in validators} == validators
    assert {"date", "cache-control"} <= set(again.headers)
    assert again.headers["vary"] == got.headers["vary"]


@pytest.mark.parametrize(
    "make", [lambda name: wheel(name, padding=70_000), lambda name: sdist(name)], ids=["wheel", "sdist"]
)
@every_client
def test_files_as_each_client_asks(here: World, client: Said, make: Callable[[str], Distribution]) -> None:
    """Whatever coding is accepted (PDM: gzip, deflate), a file is its own bytes, at their length; cold and cached."""
    made = here.publish(make(fresh_name()))
    headers = {"User-Agent": client.agent, "Accept": client.file_accept, "Accept-Encoding": client.file_coding}
    assert here.page(made.project).status == 200
    for attempt in ("cold", "cached"):
        if attempt == "cached":
            eventually(lambda: here.file(made, headers).hit, "the file is kept")
        got = here.file(made, headers)
        assert (got.status, got.sha256) == (200, made.sha256)
        assert got.headers["content-length"] == str(made.size)
        assert "content-encoding" not in got.headers
        # pip resumes only by a strong ETag that stays.
        assert got.headers["etag"] == f'"sha256-{made.sha256}"'
        assert got.headers["accept-ranges"] == "bytes"
    assert len(here.file_requests(made)) == 1


def test_poetry_reads_the_tail(here: World) -> None:
    """``Range: bytes=-10000`` of a wheel nobody has yet, then the whole: the upstream sends it once."""
    made = here.publish(wheel(fresh_name(), padding=100_000))
    assert here.page(made.project).status == 200
    got = here.file(made, {"Range": "bytes=-10000", "Accept-Encoding": "Identity", "Cache-Control": "no-cache"})
    assert (got.status, got.body) == (206, made.data[-10_000:])
    assert got.headers["content-range"] == f"bytes {made.size - 10_000}-{made.size - 1}/{made.size}"
    assert here.file(made, {"Accept-Encoding": "Identity"}).sha256 == made.sha256
    assert len(here.file_requests(made)) == 1


@pytest.mark.slow
def test_poetry_without_core_metadata(
    poetry: Tool, upstream: Upstream, start_proxy: StartProxy, desk: MakeDesk
) -> None:
    """Poetry itself: ranges for the metadata of a wheel, a good lock, and one request to the upstream for each."""
    made = [wheel("top", requires=["leaf"], padding=100_000), wheel("leaf", padding=100_000)]
    upstream.index.add(*made)
    upstream.index.core_metadata = False
    proxy = start_proxy(upstream)
    one = desk()
    one.write_project("top>=1", more="[tool.poetry]\npackage-mode = false\n")
    one.run(poetry.command(), "source", "add", "--priority=primary", "cache", proxy.index_url)
    one.run(poetry.command(), "lock")
    assert all(each.sha256 in one.read("poetry.lock") for each in made)
    assert [each["status"] for each in proxy.requests("/files/")].count(206) >= len(made)
    one.run(poetry.command(), "install")
    assert one.versions(["top", "leaf"]) == {"top": "1.0", "leaf": "1.0"}
    assert [upstream.count(None, upstream.path_of(each)) for each in made] == [1, 1]


@pytest.mark.slow
def test_pip_resumes(new_pip: Pip, upstream: Upstream, start_proxy: StartProxy, desk: MakeDesk) -> None:
    """The newest pip, cut off in the middle: it asks for the rest by our ETag, and gets the rest, from one fill."""
    made = wheel("torn", padding=3_000_000)
    upstream.index.add(made)
    upstream.index.core_metadata = False
    proxy = start_proxy(upstream)
    one = desk()
    one.make_venv()
    with Scissors(proxy.host, proxy.port, b"GET /files/", 1_000_000) as scissors:
        one.pip(new_pip, "download", "--no-deps", "-d", "got", "torn", PIP_INDEX_URL=f"{scissors.url}/simple")
        assert scissors.cuts == 1
    got = (one.project / "got" / made.filename).read_bytes()
    assert hashlib.sha256(got).hexdigest() == made.sha256
    lines = proxy.wait_for_log(lambda lines: 206 in [each.get("status") for each in lines])
    (rest,) = [each for each in lines if each.get("status") == 206]
    assert 0 < rest["bytes"] < made.size
    assert upstream.count("GET", upstream.path_of(made)) == 1


@pytest.mark.slow
def test_pipenv_reads_hashes_from_html(
    pipenv: Tool, upstream: Upstream, start_proxy: StartProxy, desk: MakeDesk
) -> None:
    """pipenv's second look at a page says ``*/*``: its lock has the hashes only if HTML comes back."""
    made = [wheel("thing", "1.0"), wheel("thing", "1.0", tag="py3-none-linux_x86_64"), sdist("thing", "1.0")]
    upstream.index.add(*made)
    proxy = start_proxy(upstream)
    one = desk()
    one.write("Pipfile", '[packages]\nthing = "*"\n')
    one.run(pipenv.command(), "lock", PIPENV_PYPI_MIRROR=proxy.index_url)
    locked = json.loads(one.read("Pipfile.lock"))["default"]["thing"]["hashes"]
    assert sorted(locked) == sorted(f"sha256:{each.sha256}" for each in made)
    # The page, in whatever form, was asked of the upstream once.
    assert len(upstream.asked("/simple/thing/")) == 1


@pytest.mark.slow
def test_pip_tools_takes_hashes_from_the_json_api(
    pip_tools: Tool, upstream: Upstream, start_proxy: StartProxy, desk: MakeDesk
) -> None:
    """``--generate-hashes`` asks ``<base>/<name>/json``: with its answer, no other file is downloaded for its hash."""
    made = [wheel("thing", "1.0"), wheel("thing", "1.0", tag="py3-none-win_amd64"), sdist("thing", "1.0")]
    upstream.index.add(*made)
    proxy = start_proxy(upstream)
    one = desk()
    one.write("requirements.in", "thing")
    one.run(pip_tools.command(), "--generate-hashes", "--strip-extras", PIP_INDEX_URL=proxy.index_url)
    assert all(each.sha256 in one.read("requirements.txt") for each in made)
    proxy.wait_for_log(lambda lines: any(each.get("path") == "/thing/json" for each in lines))
    assert [(each["path"], each["status"]) for each in proxy.requests("/thing/json")] == [("/thing/json", 200)]
    assert [each.path for each in upstream.asked("/packages/") if not each.path.endswith(".metadata")] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pdm", "poetry"])
def test_without_core_metadata_or_ranges(
    name: str, request: pytest.FixtureRequest, upstream: Upstream, start_proxy: StartProxy, desk: MakeDesk
) -> None:
    """From a bare mirror these two lock what pip would install: dependencies are not lost silently."""
    upstream.index.add(wheel("top", requires=["leaf"]), wheel("leaf"))
    upstream.index.bare()
    upstream.index.ranges = False
    proxy = start_proxy(upstream)
    tool: Tool = request.getfixturevalue(name)
    one = desk()
    one.write_project("top>=1", more="[tool.poetry]\npackage-mode = false\n")
    if name == "poetry":
        one.run(tool.command(), "source", "add", "--priority=primary", "cache", proxy.index_url)
    one.run(tool.command(), "lock", PDM_PYPI_URL=proxy.index_url)
    assert 'name = "leaf"' in one.read(f"{name}.lock")
