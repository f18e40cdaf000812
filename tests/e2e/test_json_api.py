"""The JSON API as its readers see it: where it is, what is in it, how long it lives, and what it survives."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin

import pytest

from proxy.codings import decompress
from tests.harness.behaviours import Answer, Behaviour, Raw, busy, hang_up, polite, redirect, reset_at_once
from tests.harness.exchange import Gate, Seen
from tests.harness.fetch import Fetched, fetch
from tests.harness.packages import Distribution, sdist, wheel
from tests.harness.server import ProxyServer, Settings
from tests.harness.upstream import Upstream
from tests.harness.waiting import eventually
from tests.harness.world import World, fresh_name, world

STALE_AFTER = 0.5
SETTINGS: Settings = {
    "freshness": {"stale_after": f"{STALE_AFTER}s", "min_reload_interval": "0s"},
    # What is broken here on purpose, one project after the other, must not give the index a rest.
    "limits": {"first_byte_timeout": "2s", "breaker_failures": 100_000},
}
STALE = {"Cache-Control": "max-age=0"}
# What pip's session sends for pip-tools.
PIP_TOOLS = {"Accept": "*/*", "Accept-Encoding": "gzip, deflate", "User-Agent": "pip/26.3 {}"}
NO_LIFE = ("Cache-Control", "Last-Modified", "ETag")


@pytest.fixture(scope="module")
def second() -> Upstream:
    """The upstream of the index "second"."""
    return Upstream()


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, second: Upstream) -> Iterator[World]:
    """One proxy that most tests share; the URL of its index "plain" does not end in ``/simple/``."""
    with world(
        tmp_path_factory.mktemp("json"),
        SETTINGS,
        others={"second": second},
        indexes=lambda upstream: {"plain": f"{upstream.origin}/plain/"},
    ) as made:
        yield made


def project(here: World, *behaviours: Behaviour) -> str:
    """A new project with a wheel and a later sdist, whose document the upstream serves so."""
    name = fresh_name("json")
    here.publish(wheel(name), wheel(name, "1.5", requires_python=">=3 & <4"), sdist(name, "2.0"))
    if behaviours:
        here.upstream.script(f"/pypi/{name}/json", *behaviours)
    return name


def document(here: World, name: str, headers: Mapping[str, str] | None = None) -> Fetched:
    """The project's document through the proxy."""
    return here.get(f"/pypi/{name}/json", headers)


def asked(here: World, name: str) -> list[Seen]:
    """What the upstream was asked for that project's documents."""
    return here.upstream.asked(f"/pypi/{name}/")


def told(here: World, name: str, version: str = "") -> Any:
    """What the upstream itself says, without leaving a trace in its log that a test would count."""
    path = f"/pypi/{name}/{version}/json" if version else f"/pypi/{name}/json"
    seen = Seen("GET", path, {}, 0.0, 0, 0)
    reply = here.upstream.index.reply(seen)
    return json.loads(b"".join(reply.body.read(0, reply.body.size)))


def saying(said: Any, headers: Mapping[str, str] | None = None) -> Answer:
    """An upstream that sends this document (or these bytes), whatever condition it was asked on."""
    body = said if isinstance(said, bytes) else json.dumps(said).encode()
    return Answer(status=200, body=body, headers=headers or {}, without=("Content-Encoding",))


def relocated(said: Any, here: World, root: str) -> Any:
    """The same with every file URL below the proxy's root: how the answer must look."""
    origin = here.upstream.files_url.removeprefix("http://")
    return json.loads(json.dumps(said).replace(f"http://{origin}/", f"{root}/files/test/{quote(origin)}/"))


# --- what is in it


def test_a_document(here: World) -> None:
    """All of what the upstream says, in its order, with file URLs that lead here; its serial; and then a hit."""
    name = project(here)
    got = document(here, name)
    said = told(here, name)
    assert (got.status, got.headers["content-type"]) == (200, "application/json")
    made = json.loads(got.body)
    assert made == relocated(said, here, here.proxy.url) != said
    assert list(made) == list(said)
    assert got.headers["x-pypi-last-serial"] == str(here.upstream.index.serial)
    assert got.headers["cache-control"] == "max-age=900"
    assert got.headers["vary"] == "Accept-Encoding"
    assert got.headers["x-content-type-options"] == "nosniff"
    again = document(here, name)
    assert (again.hit, again.body, again.headers["etag"]) == (True, got.body, got.headers["etag"])
    (seen,) = asked(here, name)
    assert (seen.headers["accept"], seen.headers["accept-encoding"]) == ("application/json", "gzip")


def test_a_version(here: World) -> None:
    """A document of its own, also in another spelling of the version; the project's is not asked for."""
    name = project(here)
    got = here.get(f"/pypi/{name}/1.5/json")
    assert json.loads(got.body) == relocated(told(here, name, "1.5"), here, here.proxy.url)
    assert here.get(f"/pypi/{name}/1%2E5/json").hit
    assert [seen.path for seen in asked(here, name)] == [f"/pypi/{name}/1.5/json"]
    here.upstream.script(f"/pypi/{name}/1.5.0/json", saying(told(here, name, "1.5")))
    assert here.get(f"/pypi/{name}/1.5.0/json").status == 200


def test_its_files_are_served(here: World) -> None:
    """A file that only the JSON API has named yet: its Simple page is looked at, and it lists the file."""
    name = project(here)
    for listed in json.loads(document(here, name).body)["releases"]["1.0"]:
        got = fetch(listed["url"])
        assert (got.status, got.sha256) == (200, listed["digests"]["sha256"])
    assert len(here.page_requests(name)) == 1


def test_a_file_that_no_page_lists(here: World) -> None:
    """The manifest rule holds: what only a document names is not fetched."""
    name = project(here)
    said = told(here, name)
    said["urls"][0]["url"] = f"{here.upstream.files_url}/packages/{name}/{name}-9.tar.gz"
    here.upstream.script(f"/pypi/{name}/json", saying(said))
    assert fetch(json.loads(document(here, name).body)["urls"][0]["url"]).status == 404
    assert not here.upstream.asked(f"/packages/{name}/")


def test_signed_urls_are_hidden(here: World) -> None:
    """A query of a file's URL is dropped, as on pages; a file that has no place here is left out."""
    name = project(here)
    said = told(here, name)
    said["urls"].append({**said["urls"][0], "url": "https://user:secret@example.org/a-1.whl"})
    said["urls"][0]["url"] += "?X-Signature=secret"
    here.upstream.script(f"/pypi/{name}/json", saying(said))
    got = document(here, name)
    assert b"secret" not in got.body
    assert [each["filename"] for each in json.loads(got.body)["urls"]] == [said["urls"][0]["filename"]]


def test_a_large_document(here: World) -> None:
    """What is made in threads is made right."""
    name = project(here)
    said = told(here, name) | {"info": {"name": name, "description": "\0 é \U0001f600 \\u0000 " * 20_000}}
    here.upstream.script(f"/pypi/{name}/json", saying(said))
    got = document(here, name, {"Accept-Encoding": "gzip"})
    assert json.loads(gzip.decompress(got.body)) == relocated(said, here, here.proxy.url)


# --- where it is


@pytest.mark.parametrize(
    "path",
    [
        "/{}/json",
        "/index/test/{}/json",
        "/simple/pypi/{}/json",
        "/index/test/simple/pypi/{}/json",
        "/index/test/pypi/{}/json",
    ],
)
def test_what_pip_tools_asks(here: World, path: str) -> None:
    """`--generate-hashes`, releases old and new, with every spelling of the index URL: one document, whose file
    URLs are those that the Simple page's links lead to, so that hashes are found and nothing is downloaded."""
    name = project(here)
    got = here.get(path.format(name), PIP_TOOLS)
    assert (got.status, got.headers["content-encoding"]) == (200, "gzip")
    releases = json.loads(gzip.decompress(got.body))["releases"]
    hashes = {file["url"]: file["digests"]["sha256"] for files in releases.values() for file in files}
    page_url = f"{here.proxy.url}/simple/{name}/"
    listed = json.loads(here.page(name).body)["files"]
    # pip, whose links are looked up, quotes a port's colon.
    origin = here.upstream.files_url.removeprefix("http://")
    links = {urljoin(page_url, each["url"]).replace(origin, quote(origin)): each for each in listed}
    assert {url: each["hashes"]["sha256"] for url, each in links.items()} == hashes
    assert document(here, name, PIP_TOOLS).hit


def test_every_index_has_its_own(here: World, second: Upstream) -> None:
    """By name, under its own URL; files of one index stay below that index."""
    name = fresh_name("json")
    here.publish(wheel(name))
    second.index.add(wheel(name, "3.0"))
    for path in (f"/index/second/pypi/{name}/json", f"/index/second/pypi/{name}/3.0/json"):
        (file,) = json.loads(here.get(path).body)["urls"]
        assert file["url"].startswith(f"{here.proxy.url}/files/second/")
        assert fetch(file["url"]).status == 200
    assert json.loads(document(here, name).body)["info"]["version"] == "1.0"
    assert here.get(f"/pypi/{name}/3.0/json").status == 404


@pytest.mark.parametrize(
    "path", ["/index/plain/pypi/six/json", "/index/plain/pypi/six/1.0/json", "/index/plain/six/json"]
)
def test_an_index_without(here: World, path: str) -> None:
    """Beside what does not end in ``/simple/`` there is no JSON API: 404, and nobody is asked."""
    before = len(here.upstream.log)
    got = here.get(path)
    assert got.status == 404
    assert json.loads(got.body)["detail"].startswith("This index has no JSON API")
    assert len(here.upstream.log) == before


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("/pypi/Zope.Interface/json", "../zope-interface/json"),
        ("/pypi/Zope.Interface/1!2.0%2bcpu/json?x=1", "../../zope-interface/1!2.0+cpu/json"),
        ("/index/second/pypi/zope_interface/json", "../zope-interface/json"),
        ("/Zope.Interface/json", "../zope-interface/json"),
    ],
)
def test_one_spelling_of_a_name(here: World, path: str, location: str) -> None:
    """A relative 301 to the normalised name, without a question; the version keeps its spelling."""
    before = len(here.upstream.log)
    got = here.get(path)
    assert (got.status, got.headers["location"]) == (301, location)
    assert len(here.upstream.log) == before


@pytest.mark.parametrize(
    "path",
    [
        "/pypi/-six/json",
        "/pypi/six/..1/json",
        "/pypi/six/1%20/json",
        f"/pypi/six/{'1' * 101}/json",
        "/pypi/six/",
        "/-/json",
    ],
)
def test_no_names(here: World, path: str) -> None:
    """What could be no project and no version is 404 without a question."""
    before = len(here.upstream.log)
    assert here.get(path).status == 404
    assert len(here.upstream.log) == before


def test_head_and_other_methods(here: World) -> None:
    """HEAD is GET without the body; nothing else is served."""
    name = project(here)
    got, head = document(here, name), here.get(f"/pypi/{name}/json", method="HEAD")
    names = ("content-type", "content-length", "etag", "cache-control", "vary", "x-pypi-last-serial")
    assert {each: head.headers[each] for each in names} == {each: got.headers[each] for each in names}
    assert (head.status, head.body) == (200, b"")
    assert here.get(f"/pypi/{name}/json", method="DELETE").status == 405


# --- whose root is in it


def test_the_root_is_the_clients_own(here: World) -> None:
    """Absolute URLs begin with what the client used; one client's Host is in no answer to another, nor in the
    cache, and a Host that is no host gives the socket's own address."""
    name = project(here)
    evil = "evil.example.org:8080"
    got = document(here, name, {"Host": evil})
    assert json.loads(got.body) == relocated(told(here, name), here, f"http://{evil}")
    other = document(here, name)
    assert (other.hit, json.loads(other.body)) == (True, relocated(told(here, name), here, here.proxy.url))
    assert other.headers["etag"] != got.headers["etag"]
    for bad in ('x"y', "x/y", "a b", "user@example.org", "[::1", "x\\y", "", "x" * 300, "example.org:x"):
        assert json.loads(document(here, name, {"Host": bad}).body) == json.loads(other.body), bad
    assert len(asked(here, name)) == 1
    assert evil not in str(asked(here, name)[0].raw)
    assert not [path for path in here.proxy.cache.rglob("*") if path.is_file() and evil.encode() in path.read_bytes()]


def test_a_public_url(upstream: Upstream, start_proxy: Callable[..., ProxyServer]) -> None:
    """Behind a front proxy, below a sub-path, the operator's word for the root counts, whatever the Host says."""
    upstream.index.add(wheel("six"))
    proxy = start_proxy(upstream, settings={"server": {"public_url": "https://packages.example.org/below/"}})
    (file,) = json.loads(fetch(f"{proxy.url}/pypi/six/json").body)["urls"]
    assert file["url"].startswith("https://packages.example.org/below/files/test/127.0.0.1%3A")


@pytest.mark.parametrize("coding", ["", "gzip", "zstd"])
def test_codings_and_validators(here: World, coding: Any) -> None:
    """Each coding has its own strong ETag, and a 304 that says what a 200 would."""
    name = project(here)
    plain = document(here, name)
    got = document(here, name, {"Accept-Encoding": coding or "identity"})
    assert got.headers.get("content-encoding", "") == coding
    assert decompress(got.body, coding) == plain.body
    assert (got.headers["etag"] == plain.headers["etag"]) is (coding == "")
    again = document(here, name, {"Accept-Encoding": coding or "identity", "If-None-Match": got.headers["etag"]})
    assert (again.status, again.body) == (304, b"")
    for field in ("etag", "vary", "cache-control", "date", "x-pypi-last-serial"):
        assert again.headers[field] == got.headers[field]
    elsewhere = {"Host": "other.example.org", "If-None-Match": got.headers["etag"]}
    assert document(here, name, {"Accept-Encoding": coding or "identity", **elsewhere}).status == 200


# --- how long it lives


@pytest.mark.parametrize(
    ("headers", "without", "fresh"),
    [
        ({"Cache-Control": "max-age=60"}, (), True),
        ({"Expires": formatdate(4_000_000_000, usegmt=True)}, NO_LIFE, True),
        ({"Last-Modified": "Fri, 02 Jan 2015 03:04:05 GMT"}, ("Cache-Control", "ETag"), True),
        ({"Cache-Control": "no-cache"}, (), False),
        ({"Cache-Control": "max-age=60", "Age": "60"}, (), False),
        ({"ETag": '"1"'}, ("Cache-Control", "Last-Modified"), False),
        ({}, NO_LIFE, False),
        ({"Cache-Control": "no-store"}, (), False),
        ({"Cache-Control": "private, max-age=60"}, (), False),
    ],
)
def test_freshness(here: World, headers: Mapping[str, str], without: tuple[str, ...], fresh: bool) -> None:
    """RFC 9111 as it stands: explicit life, else a tenth of the age of Last-Modified, else none at all."""
    dropped = tuple(each for each in without if each not in headers)
    name = project(here, Answer(headers=headers, without=dropped))
    first, again = document(here, name), document(here, name)
    assert (first.status, again.status, again.body) == (200, 200, first.body)
    assert again.hit is fresh
    assert len(asked(here, name)) == (1 if fresh else 2)


def test_revalidation(here: World) -> None:
    """A stale document is asked for on its condition; 304 renews it, and a new one takes its place."""
    name = project(here, Answer(headers=STALE))
    first, again = document(here, name), document(here, name)
    assert again.body == first.body
    assert "fwd-status=304" in again.headers["cache-status"]
    assert [bool(seen.headers.get("if-none-match")) for seen in asked(here, name)] == [False, True]
    here.publish(wheel(name, "7.0"))
    assert json.loads(document(here, name).body)["info"]["version"] == "7.0"


def test_a_reload(here: World) -> None:
    """A client's no-cache is heeded by asking on a condition."""
    name = project(here)
    first, again = document(here, name), document(here, name, {"Cache-Control": "no-cache"})
    assert (again.status, again.body, len(asked(here, name))) == (200, first.body, 2)
    assert "fwd-status=304" in again.headers["cache-status"]


def test_stale_while_revalidate(here: World) -> None:
    """RFC 5861 §3: what is stale is served at once, and the new one is fetched behind."""
    name = project(here, Answer(headers={"Cache-Control": "max-age=0, stale-while-revalidate=600"}), polite)
    first = document(here, name)
    here.publish(wheel(name, "7.0"))
    got = document(here, name)
    assert (got.hit, got.body) == (True, first.body)
    eventually(lambda: json.loads(document(here, name).body)["info"]["version"] == "7.0", "fetched behind")
    assert len(asked(here, name)) == 2


def test_missing(here: World) -> None:
    """404 is passed on and remembered for a while; a version may be missing where the project is there."""
    name = fresh_name("missing")
    got, again = document(here, name), document(here, name)
    assert (got.status, again.status, len(asked(here, name))) == (404, 404, 1)
    name = project(here)
    assert (document(here, name).status, here.get(f"/pypi/{name}/9/json").status) == (200, 404)


def test_only_if_cached(here: World) -> None:
    """504 when nothing fresh is here (RFC 9111 §5.2.1.7), and no question."""
    name = project(here)
    assert document(here, name, {"Cache-Control": "only-if-cached"}).status == 504
    assert not asked(here, name)
    document(here, name)
    assert document(here, name, {"Cache-Control": "only-if-cached"}).status == 200


def test_a_crowd_asks_once(here: World) -> None:
    """However many want a document that is not here, the upstream is asked once."""
    gate = Gate()
    name = project(here, Answer(held=gate))
    got = here.all_at_once(f"/pypi/{name}/json", 30, gate)
    assert [each.status for each in got] == [200] * 30
    assert len({each.body for each in got}) == len(asked(here, name)) == 1


# --- what it survives

FAULTS: dict[str, Callable[[World, str], Behaviour]] = {
    "503": lambda *_: busy(),
    "429": lambda *_: busy(429, 3600),
    "hangs up": lambda *_: hang_up,
    "resets": lambda *_: reset_at_once,
    "cut": lambda *_: Answer(status=200, stop_after=20),
    "cut without a length": lambda *_: Answer(status=200, framing="close", stop_after=40),
    "nonsense": lambda *_: Raw(b"nonsense\r\n\r\n"),
    "captive portal": lambda *_: saying(b"<html>log in</html>", {"Content-Type": "text/html"}),
    "to a login": lambda *_: redirect("/login"),
    "no object": lambda *_: saying([]),
    "no info": lambda *_: saying({"urls": []}),
    "another project": lambda here, name: saying(told(here, name) | {"info": {"name": "other"}}),
    "too deep": lambda here, name: saying(told(here, name) | {"x": json.loads("[" * 40 + "]" * 40)}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_with_a_good_document(here: World, fault: str) -> None:
    """The last good one, said to be stale; once the upstream is well again, the new one."""
    name = project(here)
    good = Answer(headers=STALE)
    behaviour = FAULTS[fault](here, name)
    here.upstream.script(f"/pypi/{name}/json", good, behaviour)
    first, got = document(here, name), document(here, name)
    if fault == "to a login":  # its 404 is an answer, asked for twice
        assert got.status == 404
        return
    assert (got.status, got.body, got.hit) == (200, first.body, True)
    assert got.headers["cache-status"].startswith("pip-cache-proxy; hit; ttl=")
    here.upstream.script(f"/pypi/{name}/json", polite)
    here.publish(wheel(name, "7.0"))
    assert json.loads(document(here, name).body)["info"]["version"] == "7.0"


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "to a login"])
def test_a_fault_with_nothing_stored(here: World, fault: str) -> None:
    """502 or 503 and soon again, never 404, and nothing of it is kept."""
    name = project(here)
    here.upstream.script(f"/pypi/{name}/json", FAULTS[fault](here, name))
    got = document(here, name)
    assert got.status in (502, 503)
    assert 1 <= int(got.headers["retry-after"]) <= 10
    here.upstream.script(f"/pypi/{name}/json", polite)
    assert document(here, name).status == 200


def test_another_version_is_malformed(here: World) -> None:
    """A version's own document must be of that version."""
    name = project(here)
    here.upstream.script(f"/pypi/{name}/1.0/json", saying(told(here, name, "1.5")))
    got = here.get(f"/pypi/{name}/1.0/json")
    assert (got.status, got.headers["retry-after"]) == (503, "2")


def test_refused_access_is_no_404(here: World) -> None:
    """401 of the upstream is 502 here, a good document or not."""
    name = project(here, Answer(headers=STALE), Answer(status=401))
    assert (document(here, name).status, document(here, name).status) == (200, 502)


def test_a_slow_upstream(here: World) -> None:
    """The last good one after ``stale_after``, and the fetch goes on behind; with nothing stored 503 in time."""
    gate = Gate()
    name = project(here, Answer(headers=STALE), Answer(held=gate))
    first, got = document(here, name), document(here, name)
    assert (got.status, got.body) == (200, first.body)
    assert 'detail="upstream is slow"' in got.headers["cache-status"]
    gate.open()
    eventually(lambda: document(here, name).hit, "the fetch went on")
    closed = Gate()
    other = project(here, Answer(held=closed))
    got = document(here, other)
    closed.open()
    assert (got.status, got.headers["retry-after"]) == (503, "2")


def test_an_older_document_never_follows_a_newer_one(here: World) -> None:
    """A mirror that lags sends a lower serial: the newer document stays."""
    name = project(here)
    behind = saying(told(here, name), {"X-PyPI-Last-Serial": "1", "ETag": '"old"', **STALE})
    here.upstream.script(f"/pypi/{name}/json", Answer(headers=STALE), behind)
    here.publish(wheel(name, "7.0"))
    first, got = document(here, name), document(here, name)
    assert json.loads(got.body)["info"]["version"] == "7.0"
    assert (got.body, got.hit) == (first.body, True)


def test_a_document_that_was_missing_does_not_come_back_older(here: World) -> None:
    """Who asks anew while a 404 is remembered may meet a mirror that lags: the newer document stays."""
    name = project(here)
    behind = saying(told(here, name), {"X-PyPI-Last-Serial": "1", "ETag": '"old"', **STALE})
    here.upstream.script(f"/pypi/{name}/json", Answer(headers=STALE), Answer(status=404))
    here.publish(wheel(name, "7.0"))
    first = document(here, name)
    assert document(here, name).status == 404
    here.upstream.script(f"/pypi/{name}/json", behind)
    anew = {"Cache-Control": "no-cache"}
    eventually(lambda: document(here, name, anew).status == 200, "the 404 is forgotten")
    assert document(here, name, anew).body == first.body


def test_a_restart_and_no_upstream(upstream: Upstream, start_proxy: Callable[..., ProxyServer], tmp_path: Path) -> None:
    """Documents outlive the process; offline they are served however old, and what is not here is 503."""
    made: Distribution = wheel("six")
    upstream.index.add(made)
    upstream.index.json_cache_control = "max-age=0"
    proxy = start_proxy(upstream)
    first = fetch(f"{proxy.url}/pypi/six/json")
    upstream.stop()
    proxy.restart(arguments=["--offline"])
    got = fetch(f"{proxy.url}/pypi/six/json", {"Host": "a.example.org"})
    assert (got.status, got.hit) == (200, True)
    assert json.loads(got.body)["info"] == json.loads(first.body)["info"]
    assert fetch(f"{proxy.url}/pypi/six/1.0/json").status == 503
