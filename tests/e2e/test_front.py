"""Behind real nginx and real Caddy, under a path: with the files in deploy/, everything is as it is without them."""

from __future__ import annotations

import gzip
import json
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin

import pytest

from tests.harness.behaviours import Answer
from tests.harness.certificates import Pair, pair
from tests.harness.clients import Fresh, Installer, Pip, installed_through, pip_install, uv_install
from tests.harness.exchange import Gate
from tests.harness.fetch import Fetched, fetch
from tests.harness.fronts import Front, free_port, installed, replaced
from tests.harness.index import JSON_V1
from tests.harness.packages import Distribution, blob, wheel
from tests.harness.waiting import eventually
from tests.harness.world import AS_JSON, HTML, PATIENCE, World, fresh_name, heard, listen, world

MIB = 1024 * 1024
# nginx speaks HTTP/1.0 to what is behind it when nobody says otherwise.
HTTP_1_0 = [("proxy_http_version 1.1;", ""), ('proxy_set_header Connection "";', "")]
KINDS = {"nginx": ("nginx", []), "caddy": ("caddy", []), "nginx-http-1.0": ("nginx", HTTP_1_0)}


@dataclass(frozen=True, slots=True)
class Site:
    """A world with a front proxy before it: ``url`` is what clients see, with the path."""

    world: World
    front: Front
    pair: Pair

    @property
    def url(self) -> str:
        """``http://127.0.0.1:port/pypi``."""
        return f"http://127.0.0.1:{self.front.port}/pypi"

    def get(self, path: str, headers: Mapping[str, str] | None = None, method: str = "GET") -> Fetched:
        """A request through the front proxy; ``path`` is the proxy's own."""
        return fetch(f"{self.url}{path}", headers, method)

    def file(self, file: Distribution, headers: Mapping[str, str] | None = None, method: str = "GET") -> Fetched:
        """The file through both."""
        return self.get(self.world.path_of(file), headers, method)

    def page(self, name: str, headers: Mapping[str, str] | None = None) -> Fetched:
        """The project's page, as JSON unless an Accept says otherwise."""
        return self.get(f"/simple/{name}/", {**AS_JSON, **(headers or {})})

    def listed(self, name: str) -> str:
        """The URL of the project's only file, as a client reads it from the page."""
        (only,) = json.loads(self.page(name).body)["files"]
        return urljoin(f"{self.url}/simple/{name}/", str(only["url"]))


@contextmanager
def site(directory: Path, kind: str) -> Iterator[Site]:
    """Runs a world and what stands before it; skips where that is not installed."""
    program, changes = KINDS[kind]
    if not installed(program):
        pytest.skip(f"{program} is not installed")
    port, made = free_port(), pair(directory / "pem")
    server = {"trusted_proxies": ["127.0.0.1"], "public_url": f"http://127.0.0.1:{port}/pypi/"}
    with world(directory, {"server": server}) as running:
        behind = f"127.0.0.1:{running.proxy.port}"
        with Front(program, directory / program, behind, port, pair=made, changes=changes) as front:
            yield Site(running, front, made)


@pytest.fixture(scope="module", params=KINDS)
def here(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One of each kind, shared by all tests."""
    with site(tmp_path_factory.mktemp("front"), request.param) as made:
        yield made


def as_page(document: Mapping[str, object]) -> Answer:
    """This document as an upstream's page."""
    headers = {"Content-Type": JSON_V1}
    return Answer(body=json.dumps(document).encode(), headers=headers, without=("Content-Encoding",))


def test_installers(here: Site, installer: Installer, fresh: Callable[[], Fresh]) -> None:
    """pip and uv install through ``/pypi/simple``; nobody but the proxy asks the upstream."""
    top, leaf = fresh_name("top"), fresh_name("leaf")
    files = [wheel(top, requires=[leaf]), wheel(leaf, padding=300_000)]
    here.world.publish(*files)
    client = fresh()
    done = installer.install(client, f"{here.url}/simple", top)
    assert done.returncode == 0, done.stdout
    assert client.version_of(leaf.replace("-", "_")) == "1.0"
    installed_through(here.world.proxy, here.world.upstream, [each.filename for each in files])


def test_a_file_streams(here: Site) -> None:
    """The first bytes arrive while the upstream still holds the rest back, and then the whole of it does."""
    file = here.world.publish(blob(fresh_name(), size=4 * MIB))
    gate = Gate()
    begun: list[int] = []
    here.world.script_file(file, Answer(stall_after=2 * MIB, gate=gate))

    def progress(count: int) -> None:
        if count > MIB and not begun:
            assert gate.reached.wait(PATIENCE)
            begun.append(count)
            gate.open()

    url = here.listed(file.project)
    got = fetch(url, progress=progress)
    assert (got.complete, got.sha256) == (True, file.sha256)
    assert begun
    assert begun[0] < file.size


def test_a_file_of_unknown_length(here: Site) -> None:
    """A page that says no size, an upstream that says no length: whole, however many HTTP/1.0 hops there are."""
    name = fresh_name()
    file = here.world.publish(blob(name, size=MIB + 3))
    listed = {"filename": file.filename, "url": here.world.upstream.index.url_of(file), "hashes": {}}
    document = {"meta": {"api-version": "1.1"}, "name": name, "files": [listed], "versions": ["1.0"]}
    here.world.script(name, as_page(document))
    here.world.script_file(file, Answer(framing="chunked"))
    got = fetch(here.listed(name))
    assert (got.complete, got.sha256) == (True, file.sha256)


def test_a_cut_file_is_a_cut_file(here: Site) -> None:
    """What is damaged upstream ends early for the client of the front proxy, too."""
    file = here.world.publish(blob(fresh_name(), size=2 * MIB))
    here.world.script_file(file, Answer(corrupt=MIB))
    got = fetch(here.listed(file.project))
    assert not got.complete
    assert len(got.body) < file.size


def test_ranges(here: Site) -> None:
    """Range, resume with If-Range as pip sends it, a tail, and what cannot be: byte for byte."""
    file = here.world.publish(blob(fresh_name(), size=2 * MIB + 11))
    url = here.listed(file.project)
    whole = fetch(url)
    assert whole.sha256 == file.sha256
    eventually(lambda: fetch(url, method="HEAD").hit, "the file is kept")
    etag = whole.headers["etag"]
    assert etag.startswith('"')
    for field, start, stop in (
        ("bytes=0-0", 0, 1),
        ("bytes=1000-1999999", 1000, 2_000_000),
        ("bytes=1048576-", MIB, file.size),
        ("bytes=-10000", file.size - 10_000, file.size),
    ):
        got = fetch(url, {"Range": field, "If-Range": etag})
        assert (got.status, got.body == whole.body[start:stop]) == (206, True)
        assert got.headers["content-range"] == f"bytes {start}-{stop - 1}/{file.size}"
        assert got.headers["etag"] == etag
    stale = fetch(url, {"Range": "bytes=1000-", "If-Range": '"another"'})
    assert (stale.status, stale.sha256) == (200, file.sha256)
    assert fetch(url, {"Range": f"bytes={file.size}-"}).status == 416
    head = fetch(url, method="HEAD")
    assert (head.headers["content-length"], head.headers["accept-ranges"]) == (str(file.size), "bytes")


@pytest.mark.parametrize("accept", [JSON_V1, HTML])
@pytest.mark.parametrize("coding", ["identity", "gzip"])
def test_pages_and_their_validators(here: Site, accept: str, coding: str) -> None:
    """The proxy's own bytes in its own coding, a strong ETag as it was, 304 for it."""
    name = fresh_name()
    here.world.publish(*(wheel(name, f"1.{number}") for number in range(30)))
    asked = {"Accept": accept, "Accept-Encoding": coding}
    direct, got = here.world.page(name, asked), here.page(name, asked)
    assert (got.status, got.body) == (200, direct.body)
    assert got.headers["etag"] == direct.headers["etag"]
    assert got.headers["etag"].startswith('"')
    assert got.headers.get("content-encoding") == (None if coding == "identity" else "gzip")
    assert name in (gzip.decompress(got.body) if coding == "gzip" else got.body).decode()
    again = here.page(name, {**asked, "If-None-Match": got.headers["etag"]})
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", got.headers["etag"])


@pytest.mark.parametrize("path", ["/simple/{name}", "/simple/{shouted}/", "/simple/{shouted}", "/simple"])
def test_redirects_stay_under_the_path(here: Site, path: str) -> None:
    """They are relative: a client that follows one lands where it should, whatever stands before the proxy."""
    name = fresh_name()
    here.world.publish(wheel(name))
    url = f"{here.url}{path.format(name=name, shouted=name.upper().replace('-', '_'))}"
    got = fetch(url, AS_JSON)
    assert (got.status, "://" in got.headers["location"]) == (301, False)
    landed = urljoin(url, got.headers["location"])
    assert landed == f"{here.url}/simple/" + (f"{name}/" if "{" in path else "")
    assert fetch(landed, AS_JSON).status == 200


def test_escapes_arrive_as_they_were_sent(here: Site) -> None:
    """A file whose page says ``%2B``, as local versions are written: "+" is another URL (RFC 3986 §2.2)."""
    name = fresh_name()
    file = here.world.publish(wheel(name, "1.0+cpu", padding=1000))
    spelt = here.world.upstream.index.url_of(file).replace("+", "%2B")
    listed = {"filename": file.filename, "url": spelt, "hashes": {"sha256": file.sha256}}
    document = {"meta": {"api-version": "1.1"}, "name": name, "files": [listed], "versions": ["1.0+cpu"]}
    here.world.script(name, as_page(document))
    here.world.upstream.script(
        here.world.upstream.path_of(file).replace("+", "%2B"),
        Answer(status=200, body=file.data, headers={"Content-Type": "application/octet-stream"}),
    )
    url = here.listed(name)
    assert "%2B" in url
    assert fetch(url).sha256 == file.sha256
    refused = here.get("/simple/a%2Fb/")
    assert refused.status == 400


def test_a_client_of_http_1_0(here: Site) -> None:
    """Whole pages and files for the oldest of clients."""
    file = here.world.publish(blob(fresh_name(), size=MIB))
    page = here.page(file.project)
    for path, body in ((f"/simple/{file.project}/", page.body), (here.world.path_of(file), None)):
        with socket.create_connection(("127.0.0.1", here.front.port), timeout=PATIENCE) as connection:
            connection.sendall(f"GET /pypi{path} HTTP/1.0\r\nAccept: {JSON_V1}\r\nHost: 127.0.0.1\r\n\r\n".encode())
            got = heard(listen(connection).data, False)
        assert got.status == 200
        assert got.body == (body if body is not None else here.file(file).body)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have one loopback address")
@pytest.mark.parametrize("forged", ["", "X-Forwarded-For: 192.0.2.7\r\n", "X-Forwarded-For: nonsense\r\n"])
def test_the_log_names_the_client(here: Site, forged: str) -> None:
    """The address the front proxy saw, whatever its client claims."""
    path = f"/simple/{fresh_name()}/"
    fields = f"Host: 127.0.0.1:{here.front.port}\r\nConnection: close\r\n{forged}"
    with socket.create_connection(("127.0.0.1", here.front.port), PATIENCE, ("127.0.0.5", 0)) as connection:
        connection.sendall(f"GET /pypi{path} HTTP/1.1\r\n{fields}\r\n".encode())
        assert listen(connection).status == 404
    here.world.proxy.wait_for_log(lambda _: here.world.proxy.requests(path))
    assert {line["client"] for line in here.world.proxy.requests(path)} == {"127.0.0.5"}


def test_the_json_api_says_public_urls(here: Site) -> None:
    """Its whole URLs begin with public_url, and lead to the file through the front proxy."""
    file = here.world.publish(wheel(fresh_name(), padding=5000))
    got = here.get(f"/pypi/{file.project}/json")
    assert got.status == 200
    (only,) = json.loads(got.body)["urls"]
    assert only["url"].startswith(f"{here.url}/files/test/")
    assert fetch(only["url"]).sha256 == file.sha256


# --- nginx's own certificate, and the local socket


def test_https_in_front(tmp_path: Path, new_pip: Pip, fresh: Callable[[], Fresh]) -> None:
    """As deploy/nginx.conf stands: TLS ends at nginx, clients trust its authority."""
    with site(tmp_path, "nginx") as made:
        made.world.publish(wheel("six"))
        index_url = f"https://127.0.0.1:{made.front.tls_port}/pypi/simple"
        client = fresh()
        # requests lets this variable of the machine win over --cert.
        client.environment.pop("REQUESTS_CA_BUNDLE", None)
        client.environment.pop("CURL_CA_BUNDLE", None)
        done = pip_install(new_pip, client, index_url, "six", extra=["--cert", str(made.pair.authority)])
        assert done.returncode == 0, done.stdout
        client = fresh()
        client.environment["SSL_CERT_FILE"] = str(made.pair.authority)
        done = uv_install(client, index_url, "six")
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("program", ["nginx", "caddy"])
def test_the_local_socket_behind(tmp_path: Path, near: Path, program: str) -> None:
    """No port at all: both programs reach the socket, and the log still names the client."""
    if not installed(program):
        pytest.skip(f"{program} is not installed")
    path = near / "socket"
    server = {"host": [], "unix_socket": str(path), "trusted_proxies": ["unix"]}
    with world(tmp_path, {"server": server}) as running:
        behind = f"unix:{path}" if program == "nginx" else f"unix/{path}"
        with Front(program, tmp_path / program, behind, free_port(), pair=pair(tmp_path / "pem")) as front:
            running.publish(wheel("six"))
            got = fetch(f"http://127.0.0.1:{front.port}/pypi/simple/six/", AS_JSON)
            assert got.status == 200
            (line,) = running.proxy.wait_for_log(lambda _: running.proxy.requests())[-1:]
            assert (line["path"], line["client"]) == ("/simple/six/", "127.0.0.1")


def test_the_comments_in_the_files_are_true(tmp_path: Path) -> None:
    """What the two files say to put into config.toml is read by the proxy as it stands there."""
    from proxy.config import load
    from tests.harness.fronts import DEPLOY

    for name in ("nginx.conf", "Caddyfile"):
        lines = (DEPLOY / name).read_text().splitlines()
        start = lines.index("#   [server]")
        told = "\n".join(line.removeprefix("#").strip() for line in lines[start : start + 3])
        (tmp_path / "config.toml").write_text(told)
        server = load(tmp_path / "config.toml").server
        assert (server.public_url, len(server.trusted_proxies)) == ("https://example.com/pypi", 1)
    assert replaced("a b", ("a", "c")) == "c b"
