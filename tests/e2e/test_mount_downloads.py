"""Downloads through mounts: large ones, parts, what is still the same, breaks, variants, signed links; from origins
that speak as origins do."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from tests.harness.admin import ask
from tests.harness.behaviours import Answer, Behaviour, Raw, busy, cut, hang_up, polite, redirect
from tests.harness.bodies import Body, Generated, sha256_of
from tests.harness.exchange import Gate, Seen
from tests.harness.fetch import Fetched, fetch
from tests.harness.hashing import hashing, said
from tests.harness.packages import blob
from tests.harness.server import ProxyServer
from tests.harness.trees import Tree, kept
from tests.harness.upstream import Upstream
from tests.harness.waiting import eventually
from tests.harness.world import World, fresh_name, world

CLIENTS = 20
MIB = 1024 * 1024
FRESH = {"Cache-Control": "max-age=600"}
STALE = {"Cache-Control": "max-age=0"}
SECRET = "canary-of-a-query"
LONG_AGO = 1767323044.0
BODY = bytes(range(256)) * 1000

StartProxy = Callable[..., ProxyServer]
MakeTree = Callable[[str], Tree]


def mounts(upstream: Upstream) -> Mapping[str, Any]:
    """What tests script, and files as a polite server has them."""
    return {"tree": f"{upstream.origin}/tree/", "files": f"{upstream.files_url}/packages/"}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One proxy that most tests share."""
    with world(tmp_path_factory.mktemp("downloads"), mounts=mounts) as made:
        yield made


def thing(body: bytes | Body = BODY, headers: Mapping[str, str] = FRESH, **how: Any) -> Answer:
    """A good answer."""
    return Answer(status=200, body=body, headers={"Content-Type": "application/octet-stream", **headers}, **how)


def tree(here: World, *behaviours: Behaviour, name: str = "file.bin") -> str:
    """The name below the mounts' root of something new, which the origin serves so."""
    rest = f"{fresh_name()}/{name}"
    here.upstream.script(f"/tree/{rest}", *(behaviours or (thing(),)))
    return rest


def get(here: World, rest: str, headers: Mapping[str, str] | None = None, method: str = "GET", **how: Any) -> Fetched:
    """A request for that."""
    return here.get(f"/raw/tree/{rest}", headers, method, **how)


def asked(here: World, rest: str) -> list[Seen]:
    """What the origin was asked for that."""
    return [each for each in here.upstream.log if each.path == f"/tree/{rest}"]


def stored(here: World, rest: str) -> None:
    """Fetches it, and waits until it is kept."""
    assert get(here, rest).status == 200
    kept(here.proxy, "tree", rest)


# --- parts of what is here, and whether it is still the same


@pytest.mark.parametrize(
    ("asked_for", "start", "stop"),
    [("bytes=1000-1999", 1000, 2000), ("bytes=100000-", 100_000, None), ("bytes=-10000", -10_000, None)],
)
def test_a_part_is_cut_from_what_is_kept(here: World, asked_for: str, start: int, stop: int | None) -> None:
    """The head, the rest and the tail, byte for byte; the origin has sent it once, as a whole."""
    rest = tree(here)
    stored(here, rest)
    answer = get(here, rest, {"Range": asked_for})
    part = BODY[start:stop]
    first = start if start >= 0 else len(BODY) + start
    assert (answer.status, answer.body, answer.hit) == (206, part, True)
    assert answer.headers["content-range"] == f"bytes {first}-{first + len(part) - 1}/{len(BODY)}"
    assert get(here, rest, {"Range": f"bytes={len(BODY)}-"}).status == 416
    assert [each.headers.get("range") for each in asked(here, rest)] == [None]


def test_a_part_of_what_is_not_here(here: World) -> None:
    """It is passed on, as the origin sends it, and not kept: the whole is asked for when it is wanted."""
    file = here.publish(blob(fresh_name("blob"), size=300_000))
    path = f"/raw/files/{file.project}/{file.filename}"
    part = here.get(path, {"Range": "bytes=1000-1999"})
    assert (part.status, part.body, part.hit) == (206, file.data[1000:2000], False)
    assert here.get(path).sha256 == file.sha256
    assert [each.headers.get("range") for each in here.file_requests(file)] == ["bytes=1000-1999", None]


def test_what_a_client_has_already(here: World) -> None:
    """By ETag or by date it gets a 304 without the origin, and all of it where it has something else."""
    dated = "Fri, 02 Jan 2026 03:04:05 GMT"
    rest = tree(here, thing(headers={**FRESH, "ETag": '"one"', "Last-Modified": dated}))
    stored(here, rest)
    for condition in ({"If-None-Match": '"one"'}, {"If-None-Match": 'W/"one"'}, {"If-Modified-Since": dated}):
        answer = get(here, rest, condition)
        assert (answer.status, answer.body, answer.headers["etag"], answer.hit) == (304, b"", '"one"', True)
    assert get(here, rest, {"If-None-Match": '"two"'}).body == BODY
    assert get(here, rest, {"Range": "bytes=0-9", "If-Range": '"one"'}).status == 206
    assert get(here, rest, {"Range": "bytes=0-9", "If-Range": '"two"'}).status == 200
    assert len(asked(here, rest)) == 1


def test_a_client_may_know_what_we_do_not(here: World) -> None:
    """The origin says whether it is still the same, and nothing is made of a 304 that is another's."""
    file = here.publish(blob(fresh_name("blob"), size=1000))
    path = f"/raw/files/{file.project}/{file.filename}"
    etag = here.get(path, method="HEAD").headers["etag"]
    assert here.get(path, {"If-None-Match": etag}).status == 304
    whole = here.get(path)
    assert (whole.status, whole.sha256) == (200, file.sha256)


# --- large ones, and ones that break


@pytest.mark.slow
def test_twenty_clients_and_a_large_file(upstream: Upstream, start_proxy: StartProxy) -> None:
    """All follow one answer of 200 MB, of which nobody said a hash; memory does not grow with it."""
    body = Generated(200 * MIB, seed=7)
    gate = Gate()
    upstream.script("/tree/big.bin", thing(body, stall_after=4 * MIB, gate=gate))
    proxy = start_proxy(upstream, mounts={"tree": f"{upstream.origin}/tree/"})
    assert fetch(f"{proxy.url}/healthz").status == 200
    before = proxy.rss()
    with hashing(proxy.host, proxy.port, "/raw/tree/big.bin", CLIENTS) as clients:
        assert said(clients) == "started"
        gate.open()
        assert clients.communicate()[0].split() == [sha256_of(body)] * CLIENTS
    assert upstream.count("GET", "/tree/big.bin") == 1
    assert proxy.peak_rss() - before < 64 * MIB


def test_a_break_is_mended_by_a_strong_etag(here: World) -> None:
    """The client sees nothing of it: the origin is asked for the rest of the same thing."""
    file = here.publish(blob(fresh_name("blob"), size=300_000))
    here.script_file(file, cut(after=100_000), polite)
    answer = here.get(f"/raw/files/{file.project}/{file.filename}")
    assert (answer.status, answer.complete, answer.sha256) == (200, True, file.sha256)
    first, second = here.file_requests(file)
    assert "range" not in first.headers
    assert second.headers["range"] == "bytes=100000-"
    kept(here.proxy, "files", f"{file.project}/{file.filename}")


@pytest.mark.parametrize("etag", [{}, {"ETag": 'W/"weak"'}], ids=["none", "weak"])
def test_a_break_of_what_has_no_strong_etag(here: World, etag: Mapping[str, str]) -> None:
    """Nobody can say that the rest is of the same thing: the client is cut, keeps nothing that looks whole, and gets
    all of it at the next try."""
    headers = {**FRESH, **etag}
    rest = tree(here, thing(headers=headers, stop_after=100_000), thing(headers=headers))
    broken = get(here, rest)
    assert not broken.complete
    assert BODY.startswith(broken.body)
    again = get(here, rest)
    assert (again.status, again.complete, again.body) == (200, True, BODY)
    assert [each.headers.get("range") for each in asked(here, rest)] == [None, None]


@pytest.mark.parametrize("fault", [hang_up, busy(503), thing(stop_after=1000)], ids=["hung-up", "busy", "cut"])
def test_a_fault_leaves_what_was_there(here: World, fault: Behaviour) -> None:
    """What is stale is served when its origin fails, though that broke off in the middle of something newer: a body
    cut at its head reaches nobody."""
    rest = tree(here, thing(headers=STALE), *[fault] * 9)
    stored(here, rest)
    answer = get(here, rest)
    assert (answer.status, answer.complete, answer.body) == (200, True, BODY)


# --- variants


def test_packed_and_plain_side_by_side(start_proxy: StartProxy, make_tree: MakeTree) -> None:
    """nginx packs for whoever takes it: each client gets its own kind, and the origin is asked once for each."""
    with make_tree("nginx") as tree:
        text = b"some text\n" * 10_000
        os.utime(tree.write("text.txt", text), (LONG_AGO, LONG_AGO))
        proxy = start_proxy(indexes={"test": tree.url}, mounts={"tree": tree.url})
        url = f"{proxy.url}/raw/tree/text.txt"

        def both() -> list[Fetched]:
            return [fetch(url, {"Accept-Encoding": coding}) for coding in ("gzip", "identity", "GZIP ")]

        assert [each.decoded for each in both()] == [text] * 3
        eventually(lambda: all(each.hit for each in both()), "both are kept")
        packed, plain, again = both()
        assert gzip.decompress(packed.body) == plain.body == text
        assert (packed.body, packed.headers["etag"]) == (again.body, again.headers["etag"])
        assert packed.headers["vary"] == plain.headers["vary"] == "Accept-Encoding"
        assert packed.headers["etag"].startswith("W/") != plain.headers["etag"].startswith("W/")
        part = fetch(url, {"Accept-Encoding": "identity", "Range": "bytes=5-9"})
        assert (part.status, part.body, part.hit) == (206, text[5:10], True)
        assert fetch(url, {"Accept-Encoding": "gzip", "If-None-Match": packed.headers["etag"]}).status == 304


# --- origins of other kinds


def test_a_directory_without_its_slash(start_proxy: StartProxy, make_tree: MakeTree) -> None:
    """http.server sends its client to the rooted path of its own: here it leads into the mount."""
    with make_tree("http.server") as tree:
        tree.write("links/one.txt", b"one")
        proxy = start_proxy(indexes={"test": tree.url}, mounts={"tree": tree.url})
        moved = fetch(f"{proxy.url}/raw/tree/links")
        assert (moved.status, moved.headers["location"]) == (301, "./links/")
        assert b"one.txt" in fetch(f"{proxy.url}/raw/tree/links/").body


def test_a_chunked_origin(here: World) -> None:
    """A length that nobody said is known once it is here."""
    rest = tree(here, thing(framing="chunked"))
    first = get(here, rest)
    assert (first.status, first.complete, first.body) == (200, True, BODY)
    kept(here.proxy, "tree", rest)
    second = get(here, rest)
    assert (second.body, second.hit, second.headers["content-length"]) == (BODY, True, str(len(BODY)))


def test_an_origin_that_ends_bodies_by_closing(here: World) -> None:
    """Such an end may be a break: the client gets what comes, nothing is kept, and the next one asks again."""
    old = Raw(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nCache-Control: max-age=600\r\n\r\n" + BODY)
    for behaviour in (old, thing(framing="close")):
        rest = tree(here, behaviour)
        answers = [get(here, rest) for _ in range(2)]
        assert [(each.status, each.complete, each.body, each.hit) for each in answers] == [(200, True, BODY, False)] * 2
        assert len(asked(here, rest)) == 2


def test_an_http_1_0_origin_that_says_how_long(here: World) -> None:
    """That is enough to know it whole."""
    length = f"Content-Length: {len(BODY)}".encode()
    rest = tree(here, Raw(b"HTTP/1.0 200 OK\r\nCache-Control: max-age=600\r\n" + length + b"\r\n\r\n" + BODY))
    stored(here, rest)
    answer = get(here, rest)
    assert (answer.body, answer.hit) == (BODY, True)


# --- redirects of model hubs


def test_a_hub_that_sends_its_clients_to_storage(here: World) -> None:
    """All that a client of a hub reads from the redirect is there, for HEAD, too; it is asked for every time, unless
    it says how long it holds."""
    signed = "https://storage.example.com/blob?Signature=abc&Expires=1"
    hub = {"X-Repo-Commit": "0123", "X-Linked-Etag": '"5678"', "X-Linked-Size": "9"}
    rest = tree(here, Answer(status=302, body=b"", headers={"Location": signed, **hub}))
    for method in ("HEAD", "GET", "GET"):
        answer = get(here, rest, method=method)
        assert (answer.status, answer.headers["location"], answer.hit) == (302, signed, False)
        assert {name: answer.headers[name.lower()] for name in hub} == hub
    assert [each.method for each in asked(here, rest)] == ["HEAD", "GET", "GET"]


def test_a_redirect_that_says_how_long_it_holds(here: World) -> None:
    """It is kept as anything else, and leads to the same place."""
    there = "https://storage.example.com/blob"
    rest = tree(here, Answer(status=302, body=b"", headers={"Location": there, **FRESH}))
    assert get(here, rest).status == 302
    kept(here.proxy, "tree", rest)
    answer = get(here, rest)
    assert (answer.status, answer.headers["location"], answer.hit) == (302, there, True)


# --- secrets


def test_a_query_is_asked_with_and_told_to_nobody(here: World) -> None:
    """Each query is another thing; none is in the log, in a list, on a disk: also not where the origin fails, breaks
    off, or sends elsewhere."""
    rests = {
        "good": tree(here, thing()),
        "fails": tree(here, hang_up),
        "busy": tree(here, busy(503)),
        "cut": tree(here, thing(stop_after=100_000)),
        "moved": tree(here, redirect(f"/tree/elsewhere?X-Signature={SECRET}")),
        "away": tree(here, redirect(f"https://storage.example.com/x?X-Signature={SECRET}")),
    }
    for rest in rests.values():
        for method in ("GET", "HEAD", "POST"):
            get(here, f"{rest}?X-Signature={SECRET}&x=1", method=method)
        assert asked(here, rest)[0].target == f"/tree/{rest}?X-Signature={SECRET}&x=1"
    other = get(here, f"{rests['good']}?X-Signature=other&x=1")
    assert (other.body, other.hit) == (BODY, False)
    for question in (
        "list",
        "list?pattern=*",
        "info",
        f"explain?path=/raw/tree/{rests['good']}%3FX-Signature={SECRET}",
    ):
        assert SECRET not in ask(here, "GET", f"/admin/cache/{question}").body.decode()
    assert SECRET not in here.get("/metrics").body.decode()
    paths = {f"/raw/tree/{rest}" for rest in rests.values()}
    here.proxy.wait_for_log(lambda lines: len([each for each in lines if each.get("path") in paths]) == 19)
    assert SECRET not in here.proxy.stderr
    holders = [path for path in here.proxy.cache.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert holders == []
