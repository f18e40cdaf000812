"""Laws of what stands in a request, or in the head of an answer: targets, links, fields and their values."""

from __future__ import annotations

import math
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network
from urllib.parse import unquote, urljoin, urlsplit

from multidict import CIMultiDict
from yarl import URL

from proxy import egress
from proxy.core import hypertext, passing
from proxy.core.conditions import Prefix, Span, Suffix, Unsatisfiable, not_modified, requested_range
from proxy.core.decide import after_upstream, before_upstream
from proxy.core.fields import (
    FOREVER,
    directives,
    entity_tags,
    format_date,
    parse_date,
    parse_retry_after,
    parse_seconds,
)
from proxy.core.freshness import assess
from proxy.core.lifetime import current_age, read
from proxy.core.messages import Entry, FileTarget, Head, JsonTarget, Moved, PageTarget, RawTarget, Rules
from proxy.core.negotiation import HTML, HTML_V1, JSON_V1, accepts, coding_of, negotiate
from proxy.core.patterns import Selection
from proxy.core.ranges import content_range, received_range, spelled, within
from proxy.core.urls import NAME_LIMIT, is_project, location_of, normalise_project, projects_of, usable_name
from proxy.core.variants import chosen_by, selecting
from proxy.errors import Refused, UpstreamFailed
from proxy.web.forwarded import Front, authority_of, scheme_of
from proxy.web.gate import admit
from proxy.web.translate import request_of
from tests.fuzz.pages import linked
from tests.fuzz.parser import Parser

HERE = "http://proxy.example.com"
NOW = 1_800_000_000.0
SIZES = (None, 0, 1, 1000, 2**40)


def target(data: bytes) -> None:
    """What the gate lets in is something we know, named in one way; where it is moved to is let in as well, is moved no
    further, and lies here."""
    raw = data.decode("utf-8", "surrogateescape")
    for _ in range(2):
        try:
            admit("GET", raw, (1, 1), CIMultiDict(), (), ["tree"])
            request = request_of("GET", raw, CIMultiDict(), ["test", "other"], "test", HERE, ["tree"])
        except Refused as error:
            assert 400 <= error.status < 500
            assert raw == data.decode("utf-8", "surrogateescape"), "it was moved to what is refused"
            return
        match request.target:
            case PageTarget(_, project, _) | JsonTarget(_, project, _):
                assert is_project(project)
                assert normalise_project(project) == project
            case FileTarget(_, location, _):
                assert usable_name(unquote(location.rpartition("/")[2]))
                assert all(segment not in ("", ".", "..") for segment in location.split("/")[1:])
                with suppress(ValueError):  # no page can list what is none
                    assert location_of("https://" + location) == location, location
            case RawTarget(mount, rest):
                assert raw == f"/raw/{mount}/{rest}"
                passing.locally(rest, "https://example.com/tree/", request.target)
            case Moved(location):
                assert location.isascii()
                assert location.isprintable()
                moved = urljoin(HERE + raw, location)
                assert moved.startswith(HERE + "/"), moved
                raw = moved.removeprefix(HERE)
                continue
        return
    raise AssertionError(f"moved twice: {raw}")


def link(data: bytes) -> None:
    """A link means one URL, and whoever reads that (urllib, egress, yarl) finds the same host in it."""
    url = hypertext.absolute(data.decode("utf-8", "replace"), "https://example.com/simple/six/")
    if url is None:
        return
    linked(url)
    try:
        there = egress.parse(url)
    except UpstreamFailed as error:
        assert error.status == 502
        return
    assert there.scheme == urlsplit(url).scheme
    assert there.host == str(urlsplit(url).hostname).removesuffix(".") or ":" in there.host
    asked = URL(there.url, encoded=True)
    assert (asked.scheme, asked.port) == (there.scheme, there.port)
    assert egress.parse(str(asked)).origin == there.origin
    assert egress.parse(f"{asked.scheme}://{asked.raw_authority}/").origin == there.origin
    # What is sent is what was spelled, but for a question mark with nothing behind it.
    path, _, query = ("/" + there.url.split("/", 3)[3]).partition("?")
    assert asked.raw_path_qs == (f"{path}?{query}" if query else path), there.url


def location(data: bytes) -> None:
    """Where a redirect leads is an URL that leads to itself, or it is refused."""
    here = egress.parse("https://example.com/simple/six/")
    try:
        there = egress.follow(here, data)
    except UpstreamFailed as error:
        assert error.status == 502
        return
    assert egress.parse(there.url) == there
    assert there.scheme in ("http", "https")
    assert str(URL(there.url, encoded=True).port) == str(there.port)
    text = data.decode("latin-1")
    told = passing.locally(text, "https://example.com/tree/", RawTarget("tree", "a/b?c"))
    assert "\n" in text or "\r" in text or ("\n" not in told and "\r" not in told)


def asked_range(data: bytes) -> None:
    """Never a byte that is not there, and never one that was not asked for."""
    text, _, if_range = data.decode("latin-1").partition("\n")
    headers = {"range": text} | ({"if-range": if_range} if if_range else {})
    for size in SIZES:
        match requested_range(headers, size=size, etag='"x"'):
            case Span(start, stop) as span:
                assert size is not None
                assert 0 <= start < stop <= size
                assert received_range(content_range(span, size)) == (span, size)
                assert requested_range({"range": spelled(span)}, size=size, etag=None) == span
            case Prefix() | Suffix() as open_ended:
                assert size is None
                for known in (1, 1000, 2**40):
                    found = requested_range({"range": spelled(open_ended)}, size=known, etag=None)
                    assert within(open_ended, known) == (None if isinstance(found, Unsatisfiable) else found)
            case Unsatisfiable() | None:
                pass
    got = received_range(text)
    assert got is None or content_range(*got) == "bytes " + "/".join(
        ("-".join(str(int(each)) for each in text[6:].partition("/")[0].split("-")), str(got[1]))
    )


def control(data: bytes) -> None:
    """Cache-Control: no directive is lost, in whatever else it stands; what is read and written is read the same."""
    text = data.decode("utf-8", "surrogateescape")
    found = directives(text)
    assert all(name == name.lower() for name in found)
    written = ", ".join(
        name if value is None else '{}="{}"'.format(name, value.replace("\\", "\\\\").replace('"', '\\"'))
        for name, value in found.items()
    )
    assert directives(written) == found or "\n" in text
    assert "no-store" in directives(f"no-store,{text}")
    assert "no-store" in directives(f"{text},no-store") or '"' in text
    for value in found.values():
        seconds = parse_seconds(value)
        assert seconds is None or 0 <= seconds <= FOREVER


def head(data: bytes) -> None:
    """Whatever fields an answer and a request have: an age and a life that are numbers, and a decision."""
    first, _, second = data.decode("latin-1").partition("\n\n")
    status, fields = _fields(first)
    _, asked = _fields(second)
    request_headers: dict[str, str] = {name.lower(): value for name, value in asked}
    request = request_of("GET", "/simple/six/", CIMultiDict(asked), ["test"], "test", HERE)
    answer = Head(status, fields, NOW - 5, NOW - 4)
    for rules in (Rules(), Rules(transparent=True), Rules(reload="honour", stale_while_revalidate=60.0)):
        for now in (NOW, NOW - 4e8, NOW + 4e8):
            age = current_age(read(answer), now)
            assert 0.0 <= age < math.inf
            verdict = assess(request_headers, answer, now, rules)
            # Not more than the greatest life, and not for ever.
            assert verdict.lifetime <= max(rules.max_ttl, rules.default_ttl) or status in (404, 410)
            entry = Entry("k", "t", "https://example.com/", answer, "b" * 64, 1, "b" * 64)
            assert before_upstream(request, entry, now, rules).because.isprintable()
            assert after_upstream(request, entry, answer, now, rules).because.isprintable()
    variant = chosen_by(selecting(answer), request_headers)
    assert variant == chosen_by(variant.names, request_headers)
    assert passing.for_one_connection(fields) >= passing.HOP_BY_HOP


def _fields(text: str) -> tuple[int, tuple[tuple[str, str], ...]]:
    status, *lines = text.split("\n")
    pairs = (line.partition(":") for line in lines)
    number = int(status) if status.isascii() and status.isdigit() and len(status) == 3 else 200
    return max(200, number), tuple((name.strip(), value.strip(" \t")) for name, _, value in pairs if name.strip())


def conditions(data: bytes) -> None:
    """Dates are dates, tags are tags; a condition never holds of a representation that has neither."""
    text = data.decode("latin-1")
    when = parse_date(text, NOW)
    if when is not None:
        assert parse_date(format_date(when), NOW) == when
    after = parse_retry_after(text, NOW)
    assert after is None or abs(after) < 4e11
    tags = entity_tags(text)
    assert entity_tags(", ".join(tags)) == tags
    headers = {"if-none-match": text, "if-modified-since": text}
    assert not not_modified(headers, etag=None, last_modified=None) or text.strip(" \t") == "*"
    for tag in tags:
        assert not_modified(headers, etag=tag, last_modified=None)


def accepted(data: bytes) -> None:
    """Something is always decided; what was chosen is accepted."""
    text = data.decode("latin-1")
    chosen = negotiate(text, None)
    assert chosen is None or accepts(text, chosen)
    assert coding_of(text) in ("", "gzip", "zstd")
    assert negotiate(None, text) in (None, HTML, HTML_V1, JSON_V1)


def forwarded(data: bytes) -> None:
    """What front proxies say: an address, an authority that can stand in a URL, or nothing."""
    lines = data.decode("latin-1").split("\n")
    front = Front(trusted=(IPv4Network("0.0.0.0/0"), IPv6Network("::/0")))
    client = front.walked("192.0.2.1", lines)
    assert front.trusts(client)
    assert Front().walked("192.0.2.1", lines) == "192.0.2.1"
    assert scheme_of(lines) in (None, "http", "https")
    authority = authority_of(lines)
    assert authority is None or "[" in authority or urlsplit(f"http://{authority}/").netloc == authority


def pattern(data: bytes) -> None:
    """A glob and a name, both anybody's: matched in bounded time."""
    glob, _, name = data.decode("utf-8", "replace").partition("\n")
    projects = projects_of(name[:NAME_LIMIT])
    assert all(normalise_project(project) == project for project in projects)
    for selection in (Selection(glob or "*"), Selection(glob or "*", version="1.0")):
        for project in projects[:1]:
            selection.covers("wheel", "test", project, name[:NAME_LIMIT])
            selection.covers("sdist", "test", project, name[:NAME_LIMIT])
        selection.covers("mount", "tree", "", name)


_PATHS = (
    *(b"/simple/", b"/index/test/simple/", b"/files/test/", b"/raw/tree/", b"/pypi/", b"/json", b"?format="),
    *(b"%2e", b"%2F"),
    *(b"files.example.com", b"%3A8080", b"six-1.0.tar.gz", b".metadata", b"..", b";", b"//", b"#", b"@"),
    *(b"[::1]", b"%00"),
    *(b"http://", b"https://", b"\\", b"127.0.0.1", b"0x7f.1", b"[::ffff:127.0.0.1]", b"xn--", b"\xc2\xad"),
    b"%E3%80%82",
)
_FIELDS = (
    *(b"max-age=", b"s-maxage=", b"no-store", b"no-cache", b"private", b"public", b"must-revalidate"),
    *(b"max-stale", b'"'),
    *(b"Cache-Control:", b"Date:", b"Expires:", b"Age:", b"Vary:", b"ETag:", b"Last-Modified:"),
    *(b"Retry-After:", b"Pragma:"),
    *(b"Sun, 06 Nov 1994 08:49:37 GMT", b"Sunday, 06-Nov-94 08:49:37 GMT", b"Sun Nov  6 08:49:37 1994", b"W/"),
    *(b'"x"', b"*"),
    *(b"X-PyPI-Last-Serial:", b"Connection:", b"Content-Type:", b"\n\n", b"99999999999", b"stale-if-error="),
)
_ACCEPT = (b"text/html", b"application/vnd.pypi.simple.v1+json", b";q=", b"*/*", b"gzip", b"zstd", b"identity", b'"')
_RANGES = (b"bytes=", b"bytes ", b"-", b",", b"0-0", b"/1000", b"99999999999999999999", b'\n"x"', b"\nW/")
_HOPS = (b"192.0.2.1", b", ", b"[2001:db8::1]:80", b"::ffff:10.0.0.1", b"https", b"example.com:8080", b"%eth0")
_GLOBS = (b"*", b"?", b"[!", b"]", b"*a", b"six-*", b"-1.0", b".whl", b".tar.gz", b"\nsix-1.0-py3-none-any.whl")

_LINE, _HEAD = 4 * 1024, 64 * 1024
"""Bytes of a request line, and of all fields of a head: beyond that nothing is read."""

PARSERS = (
    Parser("target", target, _PATHS, 1024, _LINE),
    Parser("link", link, _PATHS, 1024),
    Parser("location", location, _PATHS, 1024, _HEAD),
    Parser("range", asked_range, _RANGES, 256, _HEAD),
    Parser("control", control, _FIELDS, 1024, _HEAD),
    Parser("head", head, _FIELDS, 2048, _HEAD),
    Parser("conditions", conditions, _FIELDS, 512, _HEAD),
    Parser("accept", accepted, _ACCEPT, 512, _HEAD),
    Parser("forwarded", forwarded, _HOPS, 512, _HEAD),
    Parser("pattern", pattern, _GLOBS, 512, _LINE),
)
