"""Files and their metadata: every kind of request, cached and cold; fetched once, proved, and only what pages list."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.harness.behaviours import Answer, polite
from tests.harness.bodies import whole
from tests.harness.exchange import Gate
from tests.harness.fetch import fetch
from tests.harness.packages import Distribution, blob, sdist, wheel
from tests.harness.server import Settings
from tests.harness.upstream import Upstream
from tests.harness.waiting import eventually
from tests.harness.world import AS_JSON, World, fresh_name, right, world

SMALL, BIG = 200_000, 3_000_000
RANGE_FILL_MAX = 1_000_000
FOREVER = "public, max-age=365000000, immutable"
# 127.0.0.0/8 is loopback on Linux; elsewhere these addresses are not there, and nobody can be led to them.
CANARIES = ("127.0.0.2", "127.0.0.3", "127.8.8.8")


@pytest.fixture(scope="module")
def plain() -> Upstream:
    """An upstream with HTML pages that say no sizes; ``hashes`` is changed by tests."""
    made = Upstream()
    made.index.html_only()
    return made


@pytest.fixture(scope="module")
def here(lane: None, tmp_path_factory: pytest.TempPathFactory, plain: Upstream) -> Iterator[World]:
    """One proxy that most tests share."""
    settings: Settings = {"freshness": {"min_reload_interval": "0s"}, "limits": {"range_fill_max": RANGE_FILL_MAX}}
    with world(tmp_path_factory.mktemp("files"), settings, others={"plain": plain}) as made:
        yield made


def cached(here: World, size: int = SMALL) -> Distribution:
    """A file of that size that is in the cache."""
    made = here.cold(size)
    assert here.file(made).sha256 == made.sha256
    eventually(lambda: here.file(made).hit, "the file is kept")
    return made


# --- what can be asked of a file


@dataclass(frozen=True)
class Case:
    """Headers of a request, where {etag} is the file's; and what they lead to: of a 206 the bytes start:stop."""

    headers: Mapping[str, str]
    status: int
    start: int = 0
    stop: int = SMALL


CASES = {
    "whole": Case({}, 200),
    "first": Case({"Range": "bytes=0-99"}, 206, 0, 100),
    "one byte": Case({"Range": "bytes=7-7"}, 206, 7, 8),
    "middle": Case({"Range": "bytes=70000-140000"}, 206, 70_000, 140_001),
    "rest": Case({"Range": "bytes=150000-"}, 206, 150_000),
    "all": Case({"Range": "bytes=0-"}, 206),
    "suffix": Case({"Range": "bytes=-10000"}, 206, SMALL - 10_000),
    "long suffix": Case({"Range": "bytes=-999999999"}, 206),
    "beyond": Case({"Range": "bytes=199999-999999999999999999999"}, 206, SMALL - 1),
    "unit in capitals": Case({"Range": "BYTES=0-9"}, 206, 0, 10),
    "after the end": Case({"Range": f"bytes={SMALL}-"}, 416),
    "empty suffix": Case({"Range": "bytes=-0"}, 416),
    "backwards": Case({"Range": "bytes=5-2"}, 200),
    "two ranges": Case({"Range": "bytes=0-1,5-6"}, 200),
    "another unit": Case({"Range": "pages=1-2"}, 200),
    "garbage": Case({"Range": "bytes=one-two"}, 200),
    "if-range": Case({"Range": "bytes=100-", "If-Range": "{etag}"}, 206, 100),
    "if-range suffix": Case({"Range": "bytes=-100", "If-Range": "{etag}"}, 206, SMALL - 100),
    "if-range other": Case({"Range": "bytes=100-", "If-Range": '"other"'}, 200),
    "if-range weak": Case({"Range": "bytes=100-", "If-Range": "W/{etag}"}, 200),
    "if-range date": Case({"Range": "bytes=100-", "If-Range": "Fri, 02 Jan 2026 03:04:05 GMT"}, 200),
    "if-none-match": Case({"If-None-Match": "{etag}"}, 304),
    "if-none-match list": Case({"If-None-Match": '"a", W/{etag}'}, 304),
    "if-none-match range": Case({"If-None-Match": "{etag}", "Range": "bytes=0-9"}, 304),
    "if-none-match other": Case({"If-None-Match": '"other"'}, 200),
    "if-modified-since": Case({"If-Modified-Since": "Fri, 02 Jan 2099 03:04:05 GMT"}, 200),
    "lazy wheel": Case({"Range": "bytes=-100", "Cache-Control": "no-cache"}, 206, SMALL - 100),
    "gzip": Case({"Accept-Encoding": "gzip, deflate, zstd"}, 200),
}


@pytest.fixture(scope="module")
def warm(here: World) -> Distribution:
    """A cached file that tests only look at."""
    return cached(here)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("state", ["cached", "cold"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_requests(here: World, warm: Distribution, case: Case, state: str, method: str) -> None:
    """RFC 9110 §13 and §14, the same answer cached or not; HEAD knows no Range, and costs no upstream request."""
    file = warm if state == "cached" else here.cold(SMALL)
    before = len(here.file_requests(file))
    etag = f'"sha256-{file.sha256}"'
    headers = {name: value.format(etag=etag) for name, value in case.headers.items()}
    got = here.file(file, headers, method)
    status = 200 if method == "HEAD" and case.status in (206, 416) else case.status
    assert (got.status, got.complete) == (status, True)
    if status == 416:
        # RFC 9110 §15.5.17, as the problem document that every error is; nobody may keep it for the file.
        assert (got.headers.get("etag"), got.headers["cache-control"]) == (None, "no-store")
        assert got.headers["content-type"] == "application/problem+json"
    else:
        assert (got.headers["etag"], got.headers["cache-control"]) == (etag, FOREVER)
        assert (got.headers["accept-ranges"], got.headers["content-type"]) == ("bytes", "application/octet-stream")
    assert got.headers["x-content-type-options"] == "nosniff"
    assert got.headers["cache-status"].startswith("pip-cache-proxy; ")
    assert "content-encoding" not in got.headers
    start, stop = (case.start, case.stop) if status == 206 else (0, SMALL)
    body = got.body if status == 416 else b"" if status == 304 else b"".join(file.body.read(start, stop))
    said = {206: f"bytes {case.start}-{case.stop - 1}/{SMALL}", 416: f"bytes */{SMALL}"}.get(status)
    assert got.headers.get("content-range") == said
    assert got.headers.get("content-length") == (None if status == 304 else str(len(body)))
    assert got.body == (b"" if method == "HEAD" else body)
    if status == 416:
        document = json.loads(got.body)
        assert (document["status"], document["blame"], document["title"]) == (416, "client", HTTPStatus(416).phrase)
        assert here.line(got)["outcome"] == "refused"
    fetched = len(here.file_requests(file)) - before
    assert fetched == (1 if state == "cold" and method == "GET" and status in (200, 206) else 0)


# --- ranges of big files


def test_ranges_of_a_big_file_are_relayed(here: World) -> None:
    """Larger than ``range_fill_max``: just the range, asked for once by all who want it; nothing is kept."""
    file = here.cold(BIG)
    gate = Gate()
    here.script_file(file, Answer(held=gate))
    answers = here.all_at_once(here.path_of(file), 6, gate, ["Range: bytes=-10000"])
    body = b"".join(file.body.read(BIG - 10_000, BIG))
    assert {(each.status, each.body, each.headers["content-range"]) for each in answers} == {
        (206, body, f"bytes {BIG - 10_000}-{BIG - 1}/{BIG}")
    }
    (asked,) = here.file_requests(file)
    assert asked.headers["range"] == f"bytes={BIG - 10_000}-{BIG - 1}"
    assert asked.sent == 10_000
    assert not here.kept(file)


@pytest.mark.parametrize(("asked", "start", "stop"), [("0-99", 0, 100), ("2999000-", 2_999_000, BIG)])
def test_an_upstream_that_ignores_ranges(here: World, asked: str, start: int, stop: int) -> None:
    """Its 200 is cut to what was asked for."""
    file = here.cold(BIG)
    here.script_file(file, Answer(status=200, body=file.body, without=("Content-Range",)))
    got = here.file(file, {"Range": f"bytes={asked}"})
    assert (got.status, got.body) == (206, b"".join(file.body.read(start, stop)))
    assert got.headers["content-range"] == f"bytes {start}-{stop - 1}/{BIG}"


def test_another_range_than_asked_for(here: World) -> None:
    """A 206 that says other bytes is a failure of the upstream, not an answer."""
    file = here.cold(BIG)
    here.script_file(file, Answer(headers={"Content-Range": f"bytes 5-9/{BIG}"}, body=b"wrong"))
    got = here.file(file, {"Range": "bytes=0-4"})
    assert got.status == 502


def test_a_resumed_download_follows_the_fill(here: World) -> None:
    """``bytes=N-`` with our ETag in If-Range, as pip resumes: the whole is fetched and kept, also of a big file."""
    file = here.cold(BIG)
    got = here.file(file, {"Range": "bytes=1000000-", "If-Range": f'"sha256-{file.sha256}"'})
    assert (got.status, got.body) == (206, b"".join(file.body.read(1_000_000, BIG)))
    (asked,) = here.file_requests(file)
    assert "range" not in asked.headers
    eventually(lambda: here.file(file).hit, "the file is kept")
    assert len(here.file_requests(file)) == 1


def test_head_without_a_listed_size(here: World, plain: Upstream) -> None:
    """Where the page does not say, one HEAD upstream for all who ask at once."""
    file = blob(fresh_name("blob"), size=SMALL)
    plain.index.add(file)
    gate = Gate()
    plain.script(plain.path_of(file), Answer(held=gate))
    answers = here.all_at_once(f"/files/plain/{plain.location(file)}", 4, gate, method="HEAD")
    assert {(each.status, each.headers["content-length"]) for each in answers} == {(200, str(SMALL))}
    assert {each.headers["accept-ranges"] for each in answers} == {"bytes"}
    assert [each.method for each in plain.log if each.path == plain.path_of(file)] == ["HEAD"]


# --- what is sent on, and what is not


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "br"])
def test_a_labelled_file_is_sent_as_it_is(here: World, coding: str) -> None:
    """Some servers label .tar.gz as gzip: whoever undid that would hash the wrong bytes."""
    made = here.publish(sdist(fresh_name("source")))
    here.script_file(made, Answer(headers={"Content-Encoding": coding, "Content-Type": "text/html"}))
    for _ in range(2):
        got = here.file(made, {"Accept-Encoding": "gzip"})
        assert right(got, made)
        assert "content-encoding" not in got.headers
        assert got.headers["content-type"] == "application/octet-stream"
    assert {each.headers["accept-encoding"] for each in here.file_requests(made)} == {"identity"}


def test_a_file_that_says_no_store_is_kept(here: World) -> None:
    """Rule 2: pinned by its hash it is immutable, whatever its headers say."""
    made = here.publish(wheel(fresh_name()))
    here.script_file(made, Answer(headers={"Cache-Control": "no-store, private, max-age=0", "Vary": "*"}))
    assert right(here.file(made), made)
    eventually(lambda: here.file(made, {"Cache-Control": "no-cache, max-age=0"}).hit, "it is a hit")
    assert len(here.file_requests(made)) == 1


# --- metadata


def test_metadata(here: World) -> None:
    """Verified against its own hash, kept, and as immutable as its file, which nobody fetched."""
    made = here.publish(wheel(fresh_name(), requires=["six>=1"]))
    assert made.metadata is not None
    first = here.file(made, suffix=".metadata")
    eventually(lambda: here.file(made, suffix=".metadata").hit, "it is a hit")
    again = here.file(made, {"Range": "bytes=0-7"}, suffix=".metadata")
    assert (first.status, first.body) == (200, made.metadata)
    assert (again.status, again.body) == (206, made.metadata[:8])
    assert first.headers["etag"] == f'"sha256-{made.metadata_sha256}"'
    assert len(here.file_requests(made, ".metadata")) == 1
    assert here.file_requests(made) == []


def test_metadata_that_is_not_advertised(here: World) -> None:
    """404, without asking the upstream for it."""
    made = here.publish(sdist(fresh_name("source")))
    assert here.file(made, suffix=".metadata").status == 404
    assert here.file(made, suffix=".metadata.metadata").status == 404
    assert here.upstream.asked("/packages/" + made.project) == []


def test_metadata_with_a_wrong_hash(here: World) -> None:
    """502 and not kept; the next one is asked for past caches, and right."""
    made = here.publish(wheel(fresh_name()))
    here.script_file(made, Answer(corrupt=5), polite, suffix=".metadata")
    assert here.file(made, suffix=".metadata").status == 502
    assert here.file(made, suffix=".metadata").body == made.metadata
    asked = here.file_requests(made, ".metadata")
    assert [each.headers.get("cache-control") for each in asked] == [None, "no-cache"]


# --- hashes


def test_a_file_without_a_hash_is_pinned(here: World, plain: Upstream) -> None:
    """The first complete copy is the file from then on, also when the upstream has another one later."""
    made = blob(fresh_name("blob"), size=SMALL)
    plain.index.hashes = False
    plain.index.add(made)
    url = here.proxy.file_url(plain.location(made), "plain")
    first = fetch(url)
    eventually(lambda: fetch(url).hit, "it is a hit")
    plain.script(plain.path_of(made), Answer(body=b"another"))
    got = fetch(url)
    plain.index.hashes = True
    assert (first.sha256, got.sha256) == (made.sha256, made.sha256)
    assert got.headers["etag"] == f'"sha256-{made.sha256}"'
    assert "pinned by its first complete copy" in got.headers["cache-status"]


def test_a_changed_hash_is_another_file(here: World) -> None:
    """The listed hash is part of the key: what a page lists anew is fetched anew."""
    old = cached(here)
    new = replace(old, body=blob(old.project, size=SMALL, seed=99).body)
    new = replace(new, sha256=hashlib.sha256(whole(new.body)).hexdigest())
    here.upstream.index.remove(old)
    here.publish(new)
    assert here.page(old.project, {"Cache-Control": "no-cache"}).status == 200
    assert right(here.file(new), new)
    assert len(here.file_requests(old)) == 2


def test_a_delisted_file_that_is_cached_is_served(here: World) -> None:
    """Its page drops it, lock files do not."""
    file = cached(here)
    here.publish(wheel(file.project, "2.0"))
    here.upstream.index.remove(file)
    page = here.page(file.project, {"Cache-Control": "no-cache"})
    assert file.filename.encode() not in page.body
    assert right(here.file(file), file)
    assert here.file(file).hit
    assert len(here.file_requests(file)) == 1


def test_a_delisted_file_that_is_not_cached_is_missing(here: World) -> None:
    """Gone from the upstream and from its page: 404, from one look at the page."""
    file = here.cold(SMALL)
    here.publish(wheel(file.project, "2.0"))
    here.upstream.index.remove(file)
    assert here.file(file).status == 404
    assert len(here.page_requests(file.project)) == 2


def test_a_new_file_is_found_by_a_look_at_its_page(here: World) -> None:
    """A lock file names what the stored page does not: one look, then the file."""
    file = here.cold(SMALL)
    new = here.publish(wheel(file.project, "2.0"))
    assert right(here.file(new), new)
    assert len(here.page_requests(file.project)) == 2


def test_http_1_0(here: World, plain: Upstream) -> None:
    """A client without chunks waits until a length is known; where none comes, it gets no complete body."""
    file = blob(fresh_name("blob"), size=SMALL)
    plain.index.add(file)
    plain.script(plain.path_of(file), Answer(framing="chunked", corrupt=SMALL - 9), Answer(framing="chunked"))
    request = f"GET /files/plain/{plain.location(file)} HTTP/1.0\r\nHost: x\r\n\r\n"
    failed, got = here.say(request), here.say(request)
    assert failed.status == 502 or (failed.status, failed.reset) == (0, True)
    assert (got.status, got.headers["content-length"]) == (200, str(SMALL))
    assert hashlib.sha256(got.body).hexdigest() == file.sha256
    assert "transfer-encoding" not in got.headers


def test_a_chunked_file_of_unknown_size(here: World, plain: Upstream) -> None:
    """HTTP/1.1 clients get it in chunks as it comes, before the upstream has sent the end."""
    file = blob(fresh_name("blob"), size=SMALL)
    plain.index.add(file)
    gate, begun = Gate(), threading.Event()
    plain.script(plain.path_of(file), Answer(framing="chunked", stall_after=150_000, gate=gate))

    def begin(_: int) -> None:
        begun.set()

    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(fetch, here.proxy.file_url(plain.location(file), "plain"), progress=begin)
        assert begun.wait(20)
        assert not job.done()
        gate.open()
        got = job.result()
    assert right(got, file)
    assert got.headers["transfer-encoding"] == "chunked"


def test_a_client_that_leaves_does_not_stop_the_fill(here: World) -> None:
    """What was begun for one is there for the next; one upstream request."""
    file = here.cold(BIG)
    gate = Gate()
    here.script_file(file, Answer(stall_after=1_000_000, gate=gate))
    with here.connect() as connection:
        connection.sendall(f"GET {here.path_of(file)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    here.proxy.wait_for_log(lambda lines: any(each.get("aborted") for each in lines))
    assert not here.kept(file)
    gate.open()
    eventually(lambda: here.kept(file), "the file is on the disk")
    eventually(lambda: here.file(file).hit, "the file is kept")
    assert len(here.file_requests(file)) == 1


# --- spellings


@pytest.fixture(scope="module")
def plus(here: World) -> Distribution:
    """A wheel with a plus in its name, asked for with each spelling."""
    return here.publish(wheel("plus", "1.0+local"))


@pytest.mark.parametrize(
    "spell",
    [
        lambda path: path,
        lambda path: path.replace("+", "%2B"),
        lambda path: path.replace("+", "%2b"),
        lambda path: path.replace("plus-", "%70lus-"),
        lambda path: path.replace(".0.1:", ".0.1%3A"),
        lambda path: path.replace("/packages/", "/p%61ckages/"),
    ],
    ids=["as listed", "%2B", "%2b", "letter", "port", "directory"],
)
def test_spellings_of_one_file(here: World, plus: Distribution, spell: object) -> None:
    """RFC 3986 §6.2.2: they are one file, fetched once, by the spelling its page has."""
    assert callable(spell)
    assert right(here.get(spell(here.path_of(plus))), plus)
    eventually(lambda: here.kept(plus), "the file is kept")
    assert [each.target for each in here.file_requests(plus)] == [here.upstream.path_of(plus)]


@pytest.mark.parametrize("query", ["?", "?a=1", "?X-Signature=canary", "?.whl"])
@pytest.mark.parametrize("suffix", ["", ".metadata"])
def test_a_file_has_no_query(here: World, warm: Distribution, suffix: str, query: str) -> None:
    """404, cached or not: no token ever gets into a file's URL."""
    before = len(here.upstream.log)
    got = here.get(f"{here.path_of(warm, suffix)}{query}")
    assert got.status == (200 if query == "?" and not suffix else 404)
    assert b"canary" not in got.body
    assert len(here.upstream.log) == before


# --- the wall


@pytest.fixture(scope="module")
def canaries() -> Iterator[list[socket.socket]]:
    """Listeners that nobody must ever reach, on addresses of this machine."""
    made = []
    for address in CANARIES:
        with suppress(OSError):  # macOS has 127.0.0.1 alone
            made.append(socket.create_server((address, 0)))
    made.append(socket.create_server(("127.0.0.1", 0)))
    for each in made:
        each.setblocking(False)
    yield made
    for each in made:
        each.close()


def reached(canary: socket.socket) -> bool:
    """Whether somebody connected."""
    with suppress(BlockingIOError), closing(canary.accept()[0]):
        return True
    return False


def test_inventions_lead_nowhere(here: World, canaries: list[socket.socket]) -> None:
    """Rule 1: no page names these hosts. 404, at most one look at the page, no connection to what they name."""
    file = cached(here)
    here.upstream.forget()
    hosts = [f"{host}:{port}" for host, port in (each.getsockname() for each in canaries)]
    port = canaries[-1].getsockname()[1]
    hosts += [f"localhost:{port}", f"127.1:{port}", f"2130706433:{port}", f"0.0.0.0:{port}", f"0x7f.1:{port}"]
    hosts += [f"%5B::1%5D:{port}", f"%5B::ffff:127.0.0.1%5D:{port}", "169.254.169.254", f"example.com@127.0.0.1:{port}"]
    paths = [f"/files/test/{host}/packages/{file.project}/{file.filename}" for host in hosts]
    paths.append(here.path_of(file).replace("1.0", "9.9"))
    paths.append(here.path_of(file).replace("/packages/", "/other/"))
    paths.append(here.path_of(file).replace(file.filename, f"sub/{file.filename}"))
    statuses = {path: here.get(path).status for path in [*paths, *(f"{path}.metadata" for path in paths)]}
    assert set(statuses.values()) == {404}, statuses
    assert not any(reached(each) for each in canaries)
    assert {each.path for each in here.upstream.log} == {f"/simple/{file.project}/"}
    # Here ``min_reload_interval`` is 0; the bound on looks has a test of its own.
    assert len(here.upstream.log) <= len(statuses)


def test_few_looks_at_a_page(tmp_path: Path) -> None:
    """Inventions of one project, known or unknown, cost one look each within ``min_reload_interval``."""
    with world(tmp_path) as here:
        known = here.publish(wheel("known"))
        for number in range(5):
            for name in ("known", "unknown"):
                path = f"/files/test/{here.upstream.files_url[7:]}/{name}-{number}.0-py3-none-any.whl"
                assert here.get(path).status == 404
        with ThreadPoolExecutor(8) as pool:
            urls = [f"{here.proxy.url}/files/test/example.com/sub/{n}/late-1.0.tar.gz" for n in range(8)]
            assert {each.status for each in pool.map(fetch, urls)} == {404}
        assert [len(here.page_requests(name)) for name in ("known", "unknown", "late")] == [1, 1, 1]
        assert right(here.file(known), known)
        assert len(here.page_requests("known")) == 1


@pytest.mark.parametrize(
    "name",
    ["x.whl", "nothing", "a-1.0.rar", "-1.0.tar.gz", quote("é-1.0.tar.gz"), "six-1.0-py3-none-any.whl.metadata.exe~"],
)
def test_names_without_a_project(here: World, name: str) -> None:
    """No project, no page, no look: 404 without an upstream request."""
    before = len(here.upstream.log)
    assert here.get(f"/files/test/169.254.169.254/{name}").status == 404
    assert len(here.upstream.log) == before


@pytest.mark.parametrize(
    "link",
    [
        "ftp://127.0.0.1/{name}",
        "file:///etc/{name}",
        "http://user:canary@127.0.0.1/{name}",
        "javascript:{name}",
        "http://127.0.0.1/%2e%2e/{name}",
        "data:,{name}",
    ],
)
def test_links_that_have_no_place(here: World, link: str) -> None:
    """A page may list what cannot be served: it is left out, and the rest of the page is good."""
    project = fresh_name()
    good = wheel(project)
    here.publish(good)
    document = json.loads(fetch(f"{here.upstream.url}{project}/", AS_JSON).body)
    name = f"{project}-2.0.tar.gz"
    document["files"].append({"filename": name, "url": link.format(name=name), "hashes": {}})
    here.script(project, Answer(body=json.dumps(document).encode(), without=("Content-Encoding",)))
    got = here.page(project)
    assert [each["filename"] for each in json.loads(got.body)["files"]] == [good.filename]
    assert b"canary" not in got.body
    assert right(here.file(good), good)


def test_many_followers_of_one_fill(here: World) -> None:
    """Clients that come before the first byte and after it get the same bytes from one upstream request."""
    file = here.cold(BIG)
    gate = Gate()
    here.script_file(file, Answer(stall_after=1_000_000, gate=gate))
    answers = here.all_at_once(here.path_of(file), 12, gate)
    assert {hashlib.sha256(each.body).hexdigest() for each in answers} == {file.sha256}
    assert len(here.file_requests(file)) == 1
