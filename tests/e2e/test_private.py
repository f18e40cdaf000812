"""Private indexes through the proxy: their shapes, who is shown credentials, signatures that expire, and canaries."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.harness.behaviours import Answer, cut, redirect
from tests.harness.clients import Fresh, Installer, Pip
from tests.harness.exchange import Gate, Reply, Seen
from tests.harness.fetch import Fetched, fetch
from tests.harness.index import JSON_V1
from tests.harness.packages import Distribution, sdist, wheel
from tests.harness.server import ROOT, ProxyServer, clean_environment
from tests.harness.shapes import Shape, artifactory, basic, bucket, codeartifact, devpi, gitlab, nexus
from tests.harness.upstream import Port, Upstream

AS_JSON = {"Accept": JSON_V1}
OFF = {"breaker_failures": 1_000_000, "rest_max": "0s"}
SOON = {"min_reload_interval": "0s", "stale_after": "20s"}


@dataclass(frozen=True, slots=True)
class House:
    """An upstream of some shape, its name at the proxy, and what is published there."""

    name: str
    upstream: Upstream
    shape: Shape
    files: tuple[Distribution, ...]

    @property
    def url(self) -> str:
        return f"{self.upstream.origin}{self.shape.base}"

    def own(self) -> list[Seen]:
        """What its own origin was asked."""
        return [each for each in self.upstream.log if each.port == urlsplit(self.upstream.origin).port]

    def elsewhere(self) -> list[Seen]:
        """What its file host was asked."""
        return [each for each in self.upstream.log if each.port != urlsplit(self.upstream.origin).port]


def shapes(forward: Callable[[str], Reply]) -> dict[str, Shape]:
    """One of each kind, by the name of its index."""
    team = Shape(base="/team/", path="/team-files/{filename}", authorization="Bearer tokens-are-ascii")
    team.html_only()
    return {
        "artifactory": artifactory(basic("reader", "artifactory-password")),
        "nexus": nexus(basic("reader", "nexus-password")),
        "devpi": devpi(basic("netrc-user", "netrc-password")),
        "gitlab": gitlab(basic("__token__", "gitlab-token"), forward),
        "codeartifact": codeartifact(basic("aws", "codeartifact-token")),
        "registry": Shape(base="/team/python/simple/", authorization="Bearer registry-token"),
        "bucket": bucket(),
        "no-simple": team,
    }


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Upstream]:
    """The index that another one redirects to."""
    with Upstream(wheel("forwarded")) as running:
        yield running


@pytest.fixture(scope="module")
def houses(elsewhere: Upstream) -> Iterator[dict[str, House]]:
    """All shapes, each with a wheel that needs a source archive."""

    def forward(project: str) -> Reply:
        return Reply(302, (("Location", f"{elsewhere.url}{project}/"),))

    with ExitStack() as running:
        made = {}
        for name, shape in shapes(forward).items():
            files = (wheel(f"{name}-app", requires=[f"{name}-lib"]), sdist(f"{name}-lib"))
            # netrc knows hosts only: the one index that it speaks for has an address of its own.
            address = "127.0.0.2" if name == "devpi" else "127.0.0.1"
            upstream = running.enter_context(Upstream(*files, address=address, index=shape))
            made[name] = House(name, upstream, shape, files)
        yield made


@pytest.fixture(scope="module")
def proxy(houses: Mapping[str, House], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyServer]:
    """One proxy before all of them, with each way to configure credentials."""
    directory = tmp_path_factory.mktemp("private")

    def secret(word: str) -> str:
        path = directory / f"{word}.secret"
        path.write_text(f"{word}\n")
        return str(path)

    more: dict[str, dict[str, object]] = {
        "artifactory": {"username": "reader", "password_file": secret("artifactory-password")},
        "nexus": {"username": "reader"},
        "gitlab": {"username": "__token__", "password_file": secret("gitlab-token")},
        "codeartifact": {"username": "aws", "password_file": secret("codeartifact-token")},
        "registry": {"token_file": secret("registry-token")},
        "bucket": {"missing_status": [403]},
    }
    netrc = directory / "netrc"
    netrc.write_text("machine 127.0.0.2 login netrc-user password netrc-password\ndefault login x password default\n")
    environment = {
        "NETRC": str(netrc),
        "PIPCACHEPROXY_INDEX_NEXUS_PASSWORD": "nexus-password",
        "PIPCACHEPROXY_INDEX_NO_SIMPLE_TOKEN": "tokens-are-ascii",
    }
    indexes = {name: {"url": house.url, **more.get(name, {})} for name, house in houses.items()}
    with ProxyServer(directory, indexes, environment=environment, settings={"limits": OFF}) as running:
        yield running
        print(running.stderr)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Fresh]:
    """An environment for each installer; projects have different names, so that all of them fit in."""
    return {name: Fresh(tmp_path_factory.mktemp("room")) for name in ("pip", "uv")}


# --- shapes


@pytest.mark.parametrize("client", ["pip", "uv"])
@pytest.mark.parametrize("name", sorted(shapes(lambda _: Reply(404))))
def test_installers_install_from_every_shape(
    houses: Mapping[str, House],
    proxy: ProxyServer,
    rooms: Mapping[str, Fresh],
    new_pip: Pip,
    name: str,
    client: str,
) -> None:
    """A wheel and the source archive it needs, by the proxy's URL alone: no credentials at the client's."""
    house = houses[name]
    installer = Installer(client, new_pip if client == "pip" else None)
    done = installer.install(rooms[client], f"{proxy.url}/index/{name}/simple", f"{name}-app")
    assert done.returncode == 0, done.stdout
    for each in house.files:
        assert rooms[client].version_of(each.project.replace("-", "_")) == "1.0"
    own, elsewhere = house.own(), house.elsewhere()
    assert own
    assert {each.headers.get("authorization") for each in own} == {house.shape.authorization}
    assert {each.headers.get("authorization") for each in elsewhere} <= {None}
    assert bool(elsewhere) == (house.shape.moved or house.shape.style == "elsewhere")


def page(proxy: ProxyServer, name: str, project: str) -> Fetched:
    return fetch(f"{proxy.url}/index/{name}/simple/{project}/", AS_JSON)


def file_url(proxy: ProxyServer, name: str, shape: Shape, each: Distribution, suffix: str = "") -> str:
    return proxy.file_url(shape.url_of(each).partition("://")[2], name) + suffix


def test_a_project_that_is_forwarded_elsewhere(
    houses: Mapping[str, House], elsewhere: Upstream, proxy: ProxyServer
) -> None:
    """An index that redirects to another one for what it lacks: followed, without its credentials."""
    answer = page(proxy, "gitlab", "forwarded")
    assert answer.status == 200
    assert f"/files/gitlab/{urlsplit(elsewhere.files_url).netloc}/".encode() in answer.body
    (each,) = elsewhere.index.distributions
    assert fetch(proxy.file_url(elsewhere.location(each), "gitlab")).body == each.data
    assert [each.headers.get("authorization") for each in elsewhere.log] == [None, None]
    assert houses["gitlab"].own()[-1].headers["authorization"] == houses["gitlab"].shape.authorization


@pytest.mark.parametrize(("name", "status"), [("bucket", 404), ("artifactory", 404)])
def test_a_project_that_is_not_there(proxy: ProxyServer, name: str, status: int) -> None:
    """403 with an XML body is 404 where ``missing_status`` says so: installers look at the next index then."""
    answer = page(proxy, name, "nobody-has-this")
    assert (answer.status, b"Error" in answer.body) == (status, False)


@pytest.mark.parametrize("how", ["page", "HEAD", "range", "GET", "metadata"])
def test_credentials_on_every_kind_of_request(houses: Mapping[str, House], proxy: ProxyServer, how: str) -> None:
    """Pages, metadata, HEAD, ranges too large to wait for and files; nothing of a client's own goes along."""
    house = houses["artifactory"]
    each = wheel(f"kinds-{how.lower()}", padding=1000)
    house.shape.add(each)
    mine = {"Authorization": "Basic bWluZTptaW5l", "Cookie": "mine=1", **AS_JSON}
    assert fetch(f"{proxy.url}/index/artifactory/simple/{each.project}/", mine).status == 200
    url = file_url(proxy, "artifactory", house.shape, each)
    match how:
        case "HEAD":
            assert fetch(url, mine, "HEAD").status == 200
        case "range":
            assert fetch(url, {**mine, "Range": "bytes=0-9"}).body == each.data[:10]
        case "GET":
            assert fetch(url, mine).body == each.data
        case "metadata":
            assert fetch(f"{url}.metadata", mine).body == each.metadata
    asked = [seen for seen in house.own() if each.project.replace("-", "_") in seen.path or each.project in seen.path]
    assert len(asked) == (1 if how == "page" else 2)
    for seen in asked:
        assert seen.raw.lower().count(b"authorization:") == 1
        assert seen.headers["authorization"] == house.shape.authorization
        assert "cookie" not in seen.headers


# --- credentials that are wrong, or change


def test_a_token_that_rotates(start_proxy: Callable[..., ProxyServer], tmp_path: Path) -> None:
    """Refused access is 502, never 404; a new token in the file counts at once, without a restart."""
    shape = Shape(authorization="Bearer second")
    shape.html_only("relative")
    token = tmp_path / "token"
    token.write_text("first\n")
    with Upstream(wheel("rotating"), index=shape) as upstream:
        proxy = start_proxy(
            indexes={"a": {"url": upstream.url, "token_file": str(token)}}, settings={"freshness": SOON, "limits": OFF}
        )
        refused = page(proxy, "a", "rotating")
        assert (refused.status, b"upstream refuses access" in refused.body) == (502, True)
        (tmp_path / "new").write_text("second\n")
        (tmp_path / "new").rename(token)
        assert page(proxy, "a", "rotating").status == 200
        token.unlink()
        shape.add(wheel("other"))
        assert page(proxy, "a", "other").status == 200
    assert [each.headers["authorization"] for each in upstream.log] == [
        "Bearer first",
        "Bearer second",
        "Bearer second",
    ]
    (line,) = [line for line in proxy.log_lines(None) if line["event"] == "credentials"]
    assert line["message"] == f"{token}: expected a readable file"


def test_a_netrc_that_is_broken(start_proxy: Callable[..., ProxyServer], tmp_path: Path) -> None:
    """One line in the log that names the file and nothing of it; public indexes go on working."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 canary canary\n")
    with Upstream(wheel("plain"), wheel("simple")) as upstream:
        proxy = start_proxy(upstream, environment={"NETRC": str(netrc)})
        assert [page(proxy, "test", each).status for each in ("plain", "simple")] == [200, 200]
    (line,) = [line for line in proxy.log_lines(None) if line["event"] == "credentials"]
    assert line["message"] == f"{netrc}: not a netrc file that can be read"
    assert "canary" not in proxy.stderr


@pytest.mark.parametrize(
    ("content", "said", "complaint"),
    [
        ("machine 127.0.0.1 login x password canary\n", "credentials: netrc\n", ""),
        ("default login x password canary\n", "credentials: none\n", ""),
        ("machine 127.0.0.1 canary canary\n", "credentials: none\n", "not a netrc file that can be read"),
    ],
)
def test_check_says_whether_netrc_speaks_for_an_index(tmp_path: Path, content: str, said: str, complaint: str) -> None:
    """And names the file where it cannot be read, without its words."""
    netrc, config = tmp_path / "netrc", tmp_path / "config.toml"
    netrc.write_text(content)
    config.write_text(f'[[index]]\nname = "a"\nurl = "http://127.0.0.1:1/"\n[cache]\ndir = "{tmp_path}/cache"\n')
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "check", "--config", str(config)],
        cwd=ROOT,
        env=clean_environment({"NETRC": str(netrc)}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert said in done.stdout
    assert done.stderr == (f"{netrc}: {complaint}\n" if complaint else "")
    assert "canary" not in done.stdout + done.stderr


# --- signatures


@dataclass(frozen=True, slots=True)
class Signed:
    """An index whose links are signed, and a proxy in front of it."""

    upstream: Upstream
    shape: Shape
    proxy: ProxyServer

    def publish(self, each: Distribution) -> Distribution:
        self.shape.add(each)
        assert page(self.proxy, "a", each.project).status == 200
        return each

    def ask(self, each: Distribution, method: str = "GET", suffix: str = "", **headers: str) -> Fetched:
        return fetch(file_url(self.proxy, "a", self.shape, each, suffix), headers, method)

    def asked(self, each: Distribution) -> tuple[int, int]:
        """Requests for its page and for its file."""
        found = [seen.path for seen in self.upstream.log]
        page_path = f"{self.shape.page_path(each.project)}{self.shape.page_name}"
        return found.count(page_path), found.count(self.shape.file_path(each))


@pytest.fixture
def signed(start_proxy: Callable[..., ProxyServer]) -> Iterator[Callable[..., Signed]]:
    """Makes one; keyword arguments change the shape, ``freshness`` the proxy."""
    with ExitStack() as running:

        def make(freshness: Mapping[str, object] = SOON, missing: tuple[int, ...] = (), **changes: object) -> Signed:
            shape = bucket()
            for name, value in changes.items():
                setattr(shape, name, value)
            upstream = running.enter_context(Upstream(index=shape))
            index = {"url": f"{upstream.origin}{shape.base}", "missing_status": list(missing)}
            proxy = start_proxy(indexes={"a": index}, settings={"freshness": freshness, "limits": OFF})
            return Signed(upstream, shape, proxy)

        yield make


@pytest.mark.parametrize("past", [403, 401, 400])
@pytest.mark.parametrize("how", ["GET", "HEAD", "range", "small range"])
def test_an_expired_signature_is_looked_up_once_more(signed: Callable[..., Signed], past: int, how: str) -> None:
    """The page is fetched again although it is fresh, and the file asked for under its new URL."""
    world = signed(past=past)
    each = world.publish(wheel("signed", padding=100_000))
    world.shape.expire()
    match how:
        case "GET":
            assert world.ask(each).body == each.data
        case "HEAD":
            answer = world.ask(each, "HEAD")
            assert (answer.status, answer.headers["content-length"]) == (200, str(each.size))
        case _:
            last = 9 if how == "range" else each.size - 1
            assert world.ask(each, Range=f"bytes=0-{last}").body == each.data[: last + 1]
    assert world.asked(each) == (2, 2)


def test_an_expired_signature_where_403_means_missing(signed: Callable[..., Signed]) -> None:
    """Where the operator says that 403 is 404, a signed file that seems to be gone gets its second look, too."""
    world = signed(missing=(403,))
    each = world.publish(wheel("signed"))
    world.shape.expire()
    assert world.ask(each).body == each.data
    assert world.asked(each) == (2, 2)


def test_an_expired_signature_behind_a_validator(signed: Callable[..., Signed]) -> None:
    """A server that signs anew under one and the same validator would say "not modified": it is asked for the whole."""
    world = signed(without=("ETag",))
    each = world.publish(wheel("signed"))
    world.shape.expire()
    assert world.ask(each).body == each.data
    looks = [seen for seen in world.upstream.log if seen.path.endswith("/index.html")]
    assert [seen.status for seen in looks] == [200, 200]


def test_metadata_is_signed_like_its_file(signed: Callable[..., Signed]) -> None:
    """Core metadata beside a signed file: its URL has the file's query."""
    world = signed(core_metadata=True)
    each = world.publish(wheel("signed"))
    world.shape.expire()
    assert world.ask(each, suffix=".metadata").body == each.metadata


def test_a_signature_that_is_refused_again(signed: Callable[..., Signed]) -> None:
    """One more look, one more request, and then the failure: 502, never 404."""
    world = signed()
    each = world.publish(wheel("signed"))
    world.upstream.script(world.shape.file_path(each), Answer(status=403, body=b"no"))
    answer = world.ask(each)
    assert (answer.status, b"upstream refuses access" in answer.body) == (502, True)
    assert world.asked(each) == (2, 2)


def test_expired_signatures_do_not_hammer_the_index(signed: Callable[..., Signed]) -> None:
    """However many files fail, their page is looked at once more per ``min_reload_interval``."""
    world = signed(freshness={"min_reload_interval": "1h"})
    each = wheel("signed")
    world.shape.add(each)
    world.upstream.script(world.shape.file_path(each), Answer(status=403, body=b"no"))
    assert [world.ask(each).status for _ in range(3)] == [502, 502, 502]
    assert world.asked(each)[0] == 2


def test_an_expired_signature_on_a_page_just_found_unchanged(signed: Callable[..., Signed]) -> None:
    """What every install does: the page first, which is only revalidated, and then its file."""
    world = signed(freshness={"default_ttl": "0s"}, validators=True)
    each = world.publish(wheel("signed"))
    world.shape.expire()
    there = world.shape.page_path(each.project) + world.shape.page_name
    world.upstream.script(there, Answer(status=304, body=b""), Answer())
    assert page(world.proxy, "a", each.project).status == 200
    assert world.ask(each).body == each.data
    looks = [seen.status for seen in world.upstream.log if seen.path.endswith("/index.html")]
    assert looks == [200, 304, 200]


def test_many_clients_with_an_expired_signature(signed: Callable[..., Signed]) -> None:
    """A crowd shares the refusal, the look and the file."""
    world = signed()
    each = world.publish(wheel("signed", padding=200_000))
    gate = Gate()
    world.upstream.script(world.shape.file_path(each), Answer(status=403, body=b"no", held=gate), Answer())
    url = file_url(world.proxy, "a", world.shape, each)
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(fetch, url) for _ in range(8)]
        assert gate.reached.wait(20)
        gate.open()
        assert {job.result().sha256 for job in jobs} == {each.sha256}
    looks, requests = world.asked(each)
    assert requests == 2
    assert looks <= 9  # min_reload_interval is nothing here; what flies at the same time is one look


def test_new_signatures_make_no_new_page(signed: Callable[..., Signed]) -> None:
    """Each fetch of the page has other queries: clients see one page, with one ETag, and one set of rows."""
    world = signed(freshness={"default_ttl": "0s", **SOON}, without=("ETag", "Last-Modified"))
    each = world.publish(wheel("signed"))

    def rows() -> str:
        listing = "import diskcache, sys; print(sorted(diskcache.Cache(sys.argv[1])))"
        command = [sys.executable, "-c", listing, str(world.proxy.cache / "responses")]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    tags, kept = set(), set()
    for _ in range(4):
        tags.add(page(world.proxy, "a", each.project).headers["etag"])
        fetch(f"{world.proxy.url}/index/a/simple/{each.project}/", {"Accept": "text/html"})
        kept.add(rows())
    assert len(tags) == 1
    assert len(kept) == 1
    assert world.asked(each)[0] >= 8


# --- canaries


CANARY_USER, CANARY_PASSWORD, CANARY_TOKEN, CANARY_QUERY = "u-canary", "p-canary-4711", "t-canary-4711", "q-canary-4711"


def secrets() -> list[bytes]:
    """Every spelling of what must not be seen."""
    pair = base64.b64encode(f"{CANARY_USER}:{CANARY_PASSWORD}".encode())
    plain = [CANARY_PASSWORD.encode(), CANARY_TOKEN.encode()]
    return [*plain, pair, *(base64.b64encode(each) for each in plain)]


def contents(directory: Path) -> Iterator[tuple[Path, bytes]]:
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            yield path, path.read_bytes()


@pytest.mark.parametrize("format_name", ["text", "json"])
def test_no_secret_is_seen_anywhere(start_proxy: Callable[..., ProxyServer], tmp_path: Path, format_name: str) -> None:
    """Cold, warm and failing requests: not in the log, in no answer, on no disk, in no argument list, not in check.

    A signed query lies in the listing, which is what files are fetched by, and nowhere else.
    """
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "password").write_text(f"{CANARY_PASSWORD}\n")
    (kept / "token").write_text(f"{CANARY_TOKEN}\n")
    private = Shape(
        base="/p/simple/", signed=True, style="elsewhere", secret=CANARY_QUERY,
        authorization=basic(CANARY_USER, CANARY_PASSWORD),
    )  # fmt: skip
    bearer = Shape(base="/b/simple/", moved=True, secret=CANARY_QUERY, authorization=f"Bearer {CANARY_TOKEN}")
    plain = Port("127.0.0.1", lambda connection: connection.sendall(b"HTTP/1.1 400 Bad\r\n\r\n"))
    with Upstream(index=private) as one, Upstream(index=bearer) as two, closing(plain):
        plain.open()
        indexes = {
            "p": {"url": f"{one.origin}{private.base}", "username": CANARY_USER},
            "b": {"url": f"{two.origin}{bearer.base}", "token_file": str(kept / "token")},
            "t": {"url": f"https://127.0.0.1:{plain.number}/t/", "token_file": str(kept / "token")},
            "f": {"url": f"{one.origin}/f/", "username": "x", "password_file": str(kept / "password")},
        }
        proxy = start_proxy(
            indexes=indexes,
            settings={"log": {"format": format_name}, "freshness": SOON, "limits": OFF},
            environment={"PIPCACHEPROXY_INDEX_P_PASSWORD": CANARY_PASSWORD},
        )
        seen = [*talk(proxy, one, "p", private), *talk(proxy, two, "b", bearer)]
        seen += [page(proxy, "t", "any"), page(proxy, "f", "any")]
        command = Path(f"/proc/{proxy.process.pid}/cmdline").read_bytes()
        checked = subprocess.run(
            [sys.executable, "-m", "proxy", "check", "--config", str(proxy.directory / "config.toml")],
            cwd=ROOT,
            env=clean_environment(proxy.environment),
            capture_output=True,
            check=True,
        )
    assert {200, 404, 502, 503} <= {each.status for each in seen}
    assert f"Basic as {CANARY_USER}".encode() in checked.stdout
    assert b"bearer token" in checked.stdout
    shown = [command, checked.stdout, checked.stderr, *(each.body for each in seen)]
    shown += [repr(sorted(each.headers.items())).encode() for each in seen]
    assert proxy.terminate() == 0
    shown.append(proxy.stderr.encode())
    for each in shown:
        assert not any(secret in each for secret in [*secrets(), CANARY_QUERY.encode(), b"X-Signature"])
    rows = dict(contents(proxy.cache))
    assert not any(secret in content for content in rows.values() for secret in secrets())
    assert signed_rows(proxy.cache) == {"listing"}


def talk(proxy: ProxyServer, upstream: Upstream, name: str, shape: Shape) -> Iterator[Fetched]:
    """What a day brings: cold, warm, past its time, refused, broken, cut, wrong, redirected."""
    each, large = wheel(f"{name}-app"), wheel(f"{name}-large", padding=300_000)
    shape.add(each, large)
    project, path = shape.page_path(each.project), shape.file_path(each)
    bad = (Answer(status=401), Answer(status=403), Answer(status=500), cut(20), Answer(body=b"<html>no page"))
    for behaviour in bad:
        upstream.script(project, behaviour)
        yield page(proxy, name, each.project)
    upstream.script(project, redirect("ftp://example.com/?X-Signature=q-canary-4711"))
    yield page(proxy, name, each.project)
    upstream.script(project)
    yield page(proxy, name, each.project)
    yield page(proxy, name, each.project)
    yield page(proxy, name, "nobody-has-this")
    for behaviour in (*bad[:3], cut(20), Answer(corrupt=30), redirect("http://10.0.0.1/?X-Signature=q-canary-4711")):
        upstream.script(path, behaviour)
        yield fetch(file_url(proxy, name, shape, each))
    upstream.script(path)
    shape.expire()
    for suffix in (".metadata", ""):
        yield fetch(file_url(proxy, name, shape, each, suffix))
        yield fetch(file_url(proxy, name, shape, each, suffix))
    yield fetch(file_url(proxy, name, shape, large), {"Range": "bytes=0-9"})
    yield fetch(f"{proxy.url}/index/{name}/simple/", AS_JSON)
    yield fetch(f"{file_url(proxy, name, shape, each)}?X-Signature=mine")


def signed_rows(cache: Path) -> set[str]:
    """The kinds of rows in which the signed query lies, by the first word of their keys."""
    program = (
        "import diskcache, sys\n"
        "for room in ('responses', 'wheels'):\n"
        "    cache = diskcache.Cache(sys.argv[1] + '/' + room)\n"
        "    for row in cache._sql('SELECT key, value, filename, tag FROM Cache').fetchall():\n"
        "        text = b' '.join(c if isinstance(c, bytes) else str(c).encode() for c in row)\n"
        "        if row[2]:\n"
        "            text += open(sys.argv[1] + '/' + room + '/' + row[2], 'rb').read()\n"
        "        if sys.argv[2].encode() in text:\n"
        "            print(str(row[0]).split('|')[0])\n"
    )
    command = [sys.executable, "-c", program, str(cache), CANARY_QUERY]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
