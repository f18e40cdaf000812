"""The project list: in every format and coding from either format of the upstream, streamed, kept, and never half."""

from __future__ import annotations

import gzip
import html
import json
import os
import random
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from html.parser import HTMLParser
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin

import pytest

from tests.harness.behaviours import Answer, Behaviour, busy, cut, hang_up
from tests.harness.exchange import Framing, Gate
from tests.harness.fetch import Fetched, fetch
from tests.harness.index import JSON_V1
from tests.harness.packages import wheel
from tests.harness.waiting import eventually
from tests.harness.world import AS_JSON, HTML, World, heard, world

HTML_V1 = "application/vnd.pypi.simple.v1+html"
CODINGS = ("identity", "gzip", "zstd")
FORMATS = {JSON_V1: JSON_V1, HTML_V1: HTML_V1, HTML: "text/html; charset=utf-8"}
FRESH = {"Cache-Control": "max-age=600"}
STALE = {"Cache-Control": "max-age=0", "Age": "100"}
NUMBER = 120
NAMES = ["six", "Django_Foo", "zope.interface", "a", "0", "PyYAML", "x-1"]
ODD_NAMES = [
    "<script>alert(1)</script>",
    'a" onmouseover="x',
    "../../etc",
    "a/b?c#d",
    "h&amp;m",
    "müsli",
    "%2e%2e",
    " ",
]

_numbers = count()


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One proxy; every test has an index of its own, below its own path of the one upstream."""
    with world(
        tmp_path_factory.mktemp("lists"),
        # All indexes have one origin, and some tests make it look bad.
        {"limits": {"breaker_failures": 10_000}},
        indexes=lambda upstream: {f"i{number}": f"{upstream.origin}/i{number}/simple/" for number in range(NUMBER)},
    ) as made:
        yield made


@pytest.fixture
def index() -> str:
    """An index that no other test has."""
    number = next(_numbers)
    assert number < NUMBER, "raise NUMBER"
    return f"i{number}"


def as_json(names: list[str], **more: Any) -> bytes:
    """A list as PyPI writes it."""
    meta = {"_last-serial": 7, "api-version": "1.4"}
    projects = [{"_last-serial": number, "name": name} for number, name in enumerate(names)]
    return json.dumps({"meta": meta, "projects": projects, **more}).encode()


def as_html(names: list[str], root: str = "") -> bytes:
    """The same in HTML; links begin with ``root``."""
    lines = [f'<a href="{root}{re.sub("[-_.]+", "-", name).lower()}/">{html.escape(name)}</a>\n' for name in names]
    return f"<!DOCTYPE html><html><head><title>Simple index</title></head><body>{''.join(lines)}</body></html>".encode()


def listing(body: bytes = as_json(NAMES), headers: Mapping[str, str] | None = None, **changes: Any) -> Answer:
    """A list with an ETag, in the type that its first byte tells."""
    media_type = HTML if body[:1] == b"<" else JSON_V1
    defaults = {"Content-Type": media_type, "ETag": '"list"', **FRESH}
    changes.setdefault("status", 200)
    if not changes.get("compressed") and "Content-Encoding" not in (headers or {}):
        changes["without"] = ("Content-Encoding",)
    return Answer(body=body, headers={**defaults, **(headers or {})}, **changes)


def script(here: World, index: str, *behaviours: Behaviour) -> None:
    """What the upstream does with requests for that list."""
    here.upstream.script(f"/{index}/simple/", *behaviours)


def ask(here: World, index: str, accept: str = JSON_V1, coding: str = "identity", **how: Any) -> Fetched:
    """The list of that index."""
    headers = {"Accept": accept, "Accept-Encoding": coding, **how.pop("headers", {})}
    return here.get(f"/index/{index}/simple/", headers, **how)


def requests(here: World, index: str) -> int:
    """How often the upstream was asked for it."""
    return here.upstream.count("GET", f"/{index}/simple/")


def unchanged(headers: Mapping[str, str] = STALE) -> Answer:
    """304."""
    return listing(b"", headers, status=304)


def kept(here: World, index: str, answer: Behaviour | None = None) -> Fetched:
    """Asks for the list, and returns when it is stored; from then on the upstream says 304."""
    script(here, index, listing() if answer is None else answer, unchanged())
    got = ask(here, index)
    assert got.status == 200
    eventually(lambda: ask(here, index).headers["cache-status"].count("fwd-status=304") or ask(here, index).hit, "kept")
    return got


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[tuple[str, str]] = []
        self.tags: set[str] = set()
        self.version = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.add(tag)
        if tag == "a":
            assert set(found) == {"href"}
            self.links.append((found["href"] or "", ""))
        elif found.get("name") == "pypi:repository-version":
            self.version = found["content"] or ""

    def handle_data(self, data: str) -> None:
        if self.links and self.lasttag == "a" and data != "\n":
            href, text = self.links[-1]
            self.links[-1] = (href, text + data)


def links_of(page: bytes) -> _Links:
    """What a browser makes of it: links with their text, the tags there are, the version."""
    parser = _Links()
    parser.feed(page.decode())
    return parser


def normalised(name: str) -> str:
    """PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


# --- formats and codings


@pytest.mark.parametrize("packed", [False, True], ids=["identity", "gzip"])
@pytest.mark.parametrize("source", ["json", "html", "rooted html"])
def test_every_format_in_every_coding(here: World, index: str, source: str, packed: bool) -> None:
    """The same projects, cold and warm, whatever the upstream speaks; one upstream request, and for gzip."""
    body = {
        "json": as_json(NAMES),
        "html": as_html(NAMES),
        "rooted html": as_html(NAMES, f"/{index}/simple/"),
    }[source]
    script(here, index, listing(body, compressed=packed))
    etags = set()
    for accept in FORMATS:
        for coding in CODINGS:
            got = ask(here, index, accept, coding)
            assert (got.status, got.complete) == (200, True)
            assert got.headers["content-type"] == FORMATS[accept]
            assert got.headers.get("content-encoding", "identity") == coding
            assert got.headers["vary"] == "Accept, Accept-Encoding"
            if accept == JSON_V1:
                assert [each["name"] for each in json.loads(got.decoded)["projects"]] == NAMES
            else:
                assert links_of(got.decoded).links == [(f"{normalised(name)}/", name) for name in NAMES]
            again = ask(here, index, accept, coding)
            assert (again.decoded, again.headers["etag"]) == (got.decoded, got.headers["etag"])
            etags.add(again.headers["etag"])
    assert len(etags) == len(FORMATS) * len(CODINGS)
    (asked,) = (each for each in here.upstream.log if each.path == f"/{index}/simple/")
    assert asked.headers["accept-encoding"] == "gzip"
    assert asked.headers["accept"].startswith(f"{JSON_V1}, ")


def test_made_once(here: World, index: str) -> None:
    """A form that was made lies in the store: it comes with its length, byte for byte the same."""
    kept(here, index, listing())
    for accept in (JSON_V1, HTML):
        for coding in CODINGS:
            first = ask(here, index, accept, coding)
            whole = partial(ask, here, index, accept, coding)
            eventually(lambda: "content-length" in whole().headers, "it is kept")  # noqa: B023 - waited for right here
            got = ask(here, index, accept, coding)
            assert (got.body, int(got.headers["content-length"])) == (first.body, len(first.body))
    assert requests(here, index) == 1


def test_what_is_not_understood_is_carried(here: World, index: str) -> None:
    """Unknown keys at every level, whatever their values, and members in any order."""
    document = {
        "_first": {"deep": [1, {"er": [None, True, "]},{"]}]},
        "projects": [
            {"name": "six", "_odd": {"a": [[], {}]}, "provenance": None},
            {"name": '\u00fc"\\}{][,\u2028', "": 1.5, "z": "\n"},
            {"_last-serial": -3, "name": "a"},
        ],
        "meta": {"api-version": "1.9", "_last-serial": 12345678901234, "tracks": ["https://example.com/"]},
        "_last": "x",
    }
    got = kept(here, index, listing(json.dumps(document, indent=3).encode(), {"X-PyPI-Last-Serial": "77"}))
    assert json.loads(got.body) == document
    assert list(json.loads(got.body)) == list(document)
    again = ask(here, index, JSON_V1, "gzip")
    assert json.loads(again.decoded) == document
    assert (got.headers["x-pypi-last-serial"], again.headers["x-pypi-last-serial"]) == ("77", "77")


@pytest.mark.parametrize(("said", "shown"), [("1.0", "1.0"), ("1.3", "1.3"), ("1.4", "1.4"), ("1.27", "1.4")])
def test_the_version_in_html(here: World, index: str, said: str, shown: str) -> None:
    """PEP 833: the HTML form grows no further than 1.4."""
    script(here, index, listing(json.dumps({"meta": {"api-version": said}, "projects": []}).encode()))
    assert links_of(ask(here, index, HTML).body).version == shown


def test_names_in_html_are_escaped(here: World, index: str) -> None:
    """Whatever a name is: no tag and no attribute comes of it, and its link stays below the list."""
    script(here, index, listing(as_json(ODD_NAMES)))
    page = links_of(ask(here, index, HTML).body)
    assert page.tags == {"html", "head", "meta", "title", "body", "a", "br"}
    assert [text for _, text in page.links] == ODD_NAMES
    for href, text in page.links:
        below = urljoin("https://example.com/deep/simple/", href).removeprefix("https://example.com/deep/simple/")
        assert below.endswith("/")
        assert "/" not in below[:-1]
        assert unquote(below[:-1]) == normalised(text)


@pytest.mark.parametrize(
    ("query", "accept", "expected"),
    [
        ("", HTML, HTML),
        ("", "*/*", HTML),
        ("", f"{JSON_V1}, {HTML_V1}; q=0.1, text/html; q=0.01", JSON_V1),
        (f"?format={HTML_V1}", JSON_V1, HTML_V1),
        ("?format=application/vnd.pypi.simple.latest%2Bjson", HTML, JSON_V1),
    ],
)
def test_the_client_chooses(here: World, index: str, query: str, accept: str, expected: str) -> None:
    """By Accept, or by the format parameter of PEP 691, as for pages."""
    script(here, index, listing())
    got = here.get(f"/index/{index}/simple/{query}", {"Accept": accept})
    assert (got.status, got.headers["content-type"]) == (200, FORMATS[expected])


def test_a_format_that_is_none(here: World, index: str) -> None:
    """406, and the upstream is not asked."""
    assert here.get(f"/index/{index}/simple/", {"Accept": "image/png"}).status == 406
    assert here.get(f"/index/{index}/simple/?format=text/plain", AS_JSON).status == 406
    assert requests(here, index) == 0


def test_the_default_list(here: World) -> None:
    """Below ``/simple/``: what the upstream lists; cached for as long as it said."""
    here.publish(wheel("six"))
    first = here.get("/simple/", AS_JSON)
    assert {"name": "six"} in json.loads(first.body)["projects"]
    eventually(lambda: here.get("/simple/", AS_JSON).hit, "the list is kept")
    assert here.get("/simple/", AS_JSON).body == first.body
    assert here.upstream.count("GET", "/simple/") == 1
    assert ("six/", "six") in links_of(here.get("/simple/", {"Accept": HTML}).body).links


@pytest.mark.parametrize("body", [as_json([]), as_html([])], ids=["json", "html"])
def test_an_empty_list(here: World, index: str, body: bytes) -> None:
    """Nothing there is a list, too."""
    got = kept(here, index, listing(body))
    assert json.loads(got.body)["projects"] == []
    assert links_of(ask(here, index, HTML).body).links == []


# --- on its way


def noise(number: int) -> list[str]:
    """Names that do not pack to nothing."""
    source = random.Random(number)
    return [f"p{source.randrange(16**10):x}" for _ in range(number)]


MANY = noise(40_000)
MUCH_JSON, MUCH_HTML = as_json(MANY), as_html(MANY)
SOME = len(MUCH_JSON) * 2 // 3


@pytest.mark.parametrize(
    ("accept", "coding"), [(JSON_V1, "gzip"), (JSON_V1, "identity"), (HTML, "gzip"), (HTML, "zstd")]
)
@pytest.mark.parametrize("source", ["json", "html"])
def test_the_list_is_streamed(here: World, index: str, source: str, accept: str, coding: str) -> None:
    """Its first bytes reach a client while the upstream still holds back the rest, in whatever form; all who wait
    share one request, and are told no end before there is one."""
    body = MUCH_JSON if source == "json" else MUCH_HTML
    gate, begun = Gate(), threading.Semaphore(0)
    script(here, index, listing(body, stall_after=len(body) * 3 // 4, gate=gate))
    seen: set[str] = set()

    def client(number: int) -> Fetched:
        def progress(_: int) -> None:
            if str(number) not in seen:
                seen.add(str(number))
                begun.release()

        return fetch(
            f"{here.proxy.url}/index/{index}/simple/",
            {"Accept": accept, "Accept-Encoding": coding},
            progress=progress,
        )

    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(client, number) for number in range(3)]
        for _ in jobs:
            assert begun.acquire(timeout=20)
        assert not any(job.done() for job in jobs)
        gate.open()
        answers = [job.result() for job in jobs]
    assert len({each.body for each in answers}) == 1
    assert answers[0].complete
    if accept == JSON_V1:
        assert [each["name"] for each in json.loads(answers[0].decoded)["projects"]] == MANY
    else:
        assert [text for _, text in links_of(answers[0].decoded).links] == MANY
    eventually(lambda: ask(here, index, accept, coding).hit, "the list is kept")
    assert ask(here, index, accept, coding).decoded == answers[0].decoded
    assert requests(here, index) == 1


FAULTS: dict[str, Behaviour] = {
    "cut": listing(MUCH_JSON, stop_after=SOME),
    "reset": listing(MUCH_JSON, stop_after=SOME, ending="reset"),
    "cut chunks": listing(MUCH_JSON, stop_after=SOME, framing="chunked"),
    "cut without a length": listing(MUCH_JSON[:SOME], framing="close"),
    "cut html without a length": listing(MUCH_HTML[:SOME], framing="close"),
    "cut gzip": listing(
        gzip.compress(MUCH_JSON)[:-20], {"Content-Encoding": "gzip", "Content-Type": JSON_V1}
    ),
    "not closed": listing(MUCH_JSON[:-2]),
    "broken inside": listing(MUCH_JSON[:-100] + b'{"name"}' + MUCH_JSON[-100:]),
}  # fmt: skip


@pytest.mark.parametrize(("accept", "coding"), [(JSON_V1, "gzip"), (HTML, "identity")])
@pytest.mark.parametrize("fault", FAULTS)
def test_half_a_list(here: World, index: str, fault: str, accept: str, coding: str) -> None:
    """Nobody takes it for a whole one, nothing of it is kept, and it never replaces the last good one."""
    script(here, index, FAULTS[fault])
    got = ask(here, index, accept, coding)
    assert got.status in (200, 502, 503)
    assert got.status != 200 or not got.complete
    good = kept(here, index, listing(headers=STALE))
    script(here, index, FAULTS[fault])
    for _ in range(2):
        again = ask(here, index)
        assert (again.status, again.body, again.complete) == (200, good.body, True)
        assert again.headers["cache-status"].startswith("pip-cache-proxy; hit; ttl=-")


NO_LISTS: dict[str, Behaviour] = {
    "a portal": listing(b'<html><title>Hi</title><form><input name="room"></form><a href="login">Login</a></html>'),
    "a portal with links": listing(b'<html><h1>Hotel</h1><a href="/login">Log in</a> <a href="/">Home</a></html>'),
    "a script": listing(b"<html><script>location = '/login'</script></html>"),
    "nothing": listing(b"", {"Content-Type": HTML}),
    "text": listing(b"projects", {"Content-Type": "text/plain"}),
    "a page": listing(json.dumps({"meta": {"api-version": "1.1"}, "name": "six", "files": []}).encode()),
    "an error": listing(b'{"message": "try again"}'),
    "no meta": listing(b'{"projects": []}'),
    "another version": listing(b'{"meta": {"api-version": "2.0"}, "projects": []}'),
    "nameless": listing(b'{"meta": {"api-version": "1.0"}, "projects": [{"name": "six"}, {"Name": "a"}]}'),
    "strings": listing(b'{"meta": {"api-version": "1.0"}, "projects": ["six"]}'),
    "too deep": listing(as_json(["six"], x=json.loads("[" * 40 + "]" * 40))),
    "too large a part": listing(as_json(["six"], x="x" * 200_000)),
    "a coding not asked for": listing(headers={"Content-Encoding": "zstd"}),
    "a bomb": listing(
        gzip.compress(b'{"a": "' + b" " * 40_000_000), {"Content-Encoding": "gzip", "Content-Type": JSON_V1}
    ),
    "busy": busy(503),
    "too many": busy(429, 9999),
    "broken": busy(500),
    "not found": listing(status=404),
    "silence": hang_up,
    "one byte": cut(1),
}  # fmt: skip


@pytest.mark.parametrize("fault", NO_LISTS)
def test_no_list_at_all(here: World, index: str, fault: str) -> None:
    """A failure is 502 or 503, never 404, and tells when to come again; it never replaces the last good list."""
    script(here, index, NO_LISTS[fault])
    got = ask(here, index)
    assert (got.status in (502, 503), got.complete) == (True, True)
    assert "retry-after" in got.headers or got.status != 503
    good = kept(here, index, listing(headers=STALE))
    script(here, index, NO_LISTS[fault])
    before = requests(here, index)
    for accept in (JSON_V1, HTML):
        again = ask(here, index, accept)
        assert again.status == 200
        # RFC 9211 §2: "hit" stands without "fwd"; the negative ttl tells how stale it is.
        said = again.headers["cache-status"]
        assert re.match(r"pip-cache-proxy; hit; ttl=-1\d\d; detail=\"[^\"]+\"$", said), said
    assert ask(here, index).body == good.body
    assert requests(here, index) > before


def test_an_index_without_a_list(here: World, index: str) -> None:
    """Many have none: that is said, and no more."""
    script(here, index, listing(status=404))
    got = ask(here, index)
    assert got.status == 502
    assert json.loads(got.body)["because"] == "the index has no project list"
    assert "fwd-status=404" in got.headers["cache-status"]


def test_an_older_list(here: World, index: str) -> None:
    """A mirror that lags behind does not take back what is known."""
    kept(here, index, listing(as_json(["new"]), {**STALE, "X-PyPI-Last-Serial": "8"}))
    script(here, index, listing(as_json(["old"]), {**STALE, "X-PyPI-Last-Serial": "7"}))
    assert b"new" in ask(here, index).body
    script(here, index, listing(as_json(["newest"]), {**STALE, "X-PyPI-Last-Serial": "9"}))
    eventually(lambda: b"newest" in ask(here, index).body, "the newer one is taken")
    assert ("newest/", "newest") in links_of(ask(here, index, HTML).body).links


# --- again


def test_the_list_is_revalidated(here: World, index: str) -> None:
    """Asked again with its ETag; a 304 keeps it, and all that was made of it."""
    kept(here, index, listing(headers=STALE))
    asked = [each.headers.get("if-none-match") for each in here.upstream.log if each.path == f"/{index}/simple/"]
    assert asked[0] is None
    assert asked[-1] == '"list"'
    first = ask(here, index, HTML, "gzip")
    assert "fwd-status=304" in first.headers["cache-status"]
    eventually(lambda: "content-length" in ask(here, index, HTML, "gzip").headers, "it is kept")
    assert ask(here, index, HTML, "gzip").body == first.body


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("accept", FORMATS)
def test_a_client_that_has_it(here: World, index: str, accept: str, coding: str) -> None:
    """304 to its own ETag, with the full set of fields; another form's ETag is another's."""
    kept(here, index, listing())
    first = ask(here, index, accept, coding)
    got = ask(here, index, accept, coding, headers={"If-None-Match": first.headers["etag"]})
    assert (got.status, got.body, got.headers["etag"]) == (304, b"", first.headers["etag"])
    assert {"vary", "date", "cache-control", "age", "cache-status"} <= set(got.headers)
    assert ask(here, index, accept, coding, headers={"If-None-Match": '"other"'}).status == 200
    other = next(each for each in CODINGS if each != coding)
    assert ask(here, index, accept, other, headers={"If-None-Match": first.headers["etag"]}).status == 200


def test_the_etag_follows_the_content(here: World, index: str) -> None:
    """The same list fetched again keeps it, however it was cut and packed; a changed one does not."""
    script(here, index, listing(headers=STALE))
    etag = ask(here, index).headers["etag"]
    script(here, index, listing(headers=STALE, compressed=True, framing="chunked", rate=1_000_000))
    assert ask(here, index).headers["etag"] == etag
    script(here, index, listing(as_json([*NAMES, "more"]), STALE))
    eventually(lambda: ask(here, index).headers["etag"] != etag, "the new one is taken")
    assert b"more" in ask(here, index, HTML).body


def test_a_slow_upstream(here: World, index: str) -> None:
    """What is stored is served after a second, and the fetch goes on behind."""
    kept(here, index, listing(headers=STALE))
    gate = Gate()
    script(here, index, listing(as_json(["fresh"]), held=gate))
    got = ask(here, index, HTML, "gzip")
    assert (got.status, "hit" in got.headers["cache-status"]) == (200, True)
    gate.open()
    eventually(lambda: b"fresh" in ask(here, index).body, "what came is kept")


def test_a_list_that_must_not_be_kept(here: World, index: str) -> None:
    """It is served in every form all the same, from one request each."""
    script(here, index, listing(headers={"Cache-Control": "no-store"}))
    assert [each["name"] for each in json.loads(ask(here, index).body)["projects"]] == NAMES
    assert [text for _, text in links_of(ask(here, index, HTML, "gzip").decoded).links] == NAMES
    assert requests(here, index) == 2


def test_head(here: World, index: str) -> None:
    """The fields of a GET, without a body; nothing is made for it, and where the length is known it is told."""
    script(here, index, listing())
    for accept in FORMATS:
        for coding in CODINGS:
            got = ask(here, index, accept, coding, method="HEAD")
            assert (got.status, got.body, got.headers["content-type"]) == (200, b"", FORMATS[accept])
            assert "transfer-encoding" not in got.headers
            whole = ask(here, index, accept, coding)
            told = partial(ask, here, index, accept, coding, method="HEAD")
            eventually(lambda: "content-length" in told().headers, "it is kept")  # noqa: B023 - waited for right here
            again = ask(here, index, accept, coding, method="HEAD")
            assert int(again.headers["content-length"]) == len(whole.body)
            assert again.headers["etag"] == ask(here, index, accept, coding).headers["etag"]
    assert requests(here, index) == 1


@pytest.mark.parametrize("coding", ["gzip", "identity"])
@pytest.mark.parametrize("accept", [JSON_V1, HTML])
def test_a_client_of_http_1_0(here: World, index: str, accept: str, coding: str) -> None:
    """Without chunks it gets a length, so that it can tell a cut; and half a list is a clean failure."""
    question = (
        f"GET /index/{index}/simple/ HTTP/1.0\r\nHost: x\r\nAccept: {accept}\r\nAccept-Encoding: {coding}\r\n\r\n"
    )
    script(here, index, FAULTS["cut"])
    assert here.say(question).status in (502, 503)
    script(here, index, listing(MUCH_JSON))
    for _ in range(2):
        got = here.say(question)
        assert (got.status, int(got.headers["content-length"]), got.reset) == (200, len(got.body), False)
        body = gzip.decompress(got.body) if coding == "gzip" else got.body
        assert body.count(MANY[-1].encode()) == (1 if accept == JSON_V1 else 2)


def test_a_client_that_leaves(here: World, index: str) -> None:
    """The fetch goes on without it, and what it asked for is made."""
    gate = Gate()
    script(here, index, listing(MUCH_JSON, stall_after=1_000_000, gate=gate))
    question = f"GET /index/{index}/simple/ HTTP/1.1\r\nHost: x\r\nAccept: text/html\r\nAccept-Encoding: gzip\r\n\r\n"
    with here.connect() as connection:
        connection.sendall(question.encode())
        begun = connection.recv(1000)
        assert heard(begun, False).status == 200
        connection.shutdown(socket.SHUT_RDWR)
    gate.open()
    eventually(lambda: "content-length" in ask(here, index, HTML, "gzip", method="HEAD").headers, "it is kept")
    assert requests(here, index) == 1


def test_offline_and_after_a_restart(tmp_path: Path) -> None:
    """What is stored, in every form, also those that nobody has asked for; no connection to the upstream."""
    with world(tmp_path) as here:
        here.upstream.script("/simple/", listing(headers=STALE), unchanged())
        first = here.get("/simple/", {"Accept": HTML})
        eventually(lambda: "fwd-status=304" in here.get("/simple/", AS_JSON).headers["cache-status"], "it is kept")
        here.proxy.restart(arguments=("--offline",))
        connections = here.upstream.connections
        for accept in FORMATS:
            for coding in CODINGS:
                got = here.get("/simple/", {"Accept": accept, "Accept-Encoding": coding})
                assert (got.status, got.complete, got.hit) == (200, True, True)
                names = re.findall(rb'"name":"([^"]+)"|">([^<]+)</a>', got.decoded)
                assert [(name or text).decode() for name, text in names] == NAMES
        assert here.get("/simple/", {"Accept": HTML}).body == first.body
        assert here.upstream.connections == connections


def test_nothing_is_left_over(tmp_path: Path) -> None:
    """A new list takes all that was made of the old one along; no spool remains."""
    with world(tmp_path) as here:

        def bodies() -> int:
            return sum("projects" in files for _, _, files in os.walk(here.proxy.cache / "responses"))

        for number in range(3):
            here.upstream.script("/simple/", listing(as_json(["six", f"n{number}"]), STALE))
            newest = f"n{number}".encode()
            eventually(lambda: newest in here.get("/simple/", AS_JSON).body, "kept")  # noqa: B023 - waited for right here
            here.upstream.script("/simple/", unchanged())
            for accept in (JSON_V1, HTML):
                for coding in CODINGS:
                    headers = {"Accept": accept, "Accept-Encoding": coding}
                    told = partial(here.get, "/simple/", headers)
                    eventually(lambda: "content-length" in told().headers, "kept")  # noqa: B023 - waited for right here
            eventually(lambda: bodies() == 6, "one body for each form")
        eventually(lambda: here.proxy.spooled() == [], "every spool is gone")


def test_a_damaged_list(tmp_path: Path) -> None:
    """What the disk has spoiled is thrown away before a byte of it is seen, and fetched again."""
    with world(tmp_path) as here:
        here.upstream.script("/simple/", listing())
        here.get("/simple/", {**AS_JSON, "Accept-Encoding": "gzip"})
        eventually(lambda: here.get("/simple/", {**AS_JSON, "Accept-Encoding": "gzip"}).hit, "it is kept")
        (body,) = (here.proxy.cache / "responses").rglob("projects")
        spoiled = bytearray(body.read_bytes())
        spoiled[-8:-4] = bytes(4)
        body.write_bytes(spoiled)
        asked = here.upstream.count("GET", "/simple/")
        got = here.get("/simple/", {"Accept": HTML})
        assert (got.status, got.complete, got.hit) == (200, True, False)
        assert here.upstream.count("GET", "/simple/") == asked + 1


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_framings(here: World, index: str, framing: Framing) -> None:
    """However the upstream shows the end; a list that shows it itself needs no other."""
    for body in (as_json(NAMES), as_html(NAMES)):
        script(here, index, listing(body, STALE, framing=framing))
        assert ask(here, index).status == 200


def test_memory(tmp_path: Path) -> None:
    """700,000 projects in every form at once, while they are fetched and when they are stored: less than 32 MiB."""
    names = [f"p-{number * 7919 % 1_000_003:x}-{number:x}" for number in range(700_000)]
    packed = gzip.compress(as_json(names), 1)
    with world(tmp_path) as here, ThreadPoolExecutor(len(CODINGS) * 2) as pool:
        here.publish(wheel("six"))
        assert here.page("six").status == 200
        idle = here.proxy.rss()
        here.upstream.script("/simple/", listing(packed, {"Content-Encoding": "gzip", "Content-Type": JSON_V1}))

        def count_of(form: tuple[str, str]) -> tuple[bool, int, int]:
            got = here.get("/simple/", {"Accept": form[0], "Accept-Encoding": form[1]}, timeout=120.0)
            body = got.decoded
            return got.complete, body.count(b'"name":"') + body.count(b"<a href="), body.count(names[-1].encode())

        forms = [(accept, coding) for accept in (JSON_V1, HTML) for coding in CODINGS]
        expected = [(True, len(names), 1 if accept == JSON_V1 else 2) for accept, _ in forms]
        for _ in range(2):
            assert list(pool.map(count_of, forms)) == expected
        grown = (here.proxy.peak_rss() - idle) / 2**20
        assert grown < 32
        assert here.upstream.count("GET", "/simple/") == 1
