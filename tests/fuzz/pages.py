"""Laws of what indexes answer: pages, lists of projects, documents of the JSON API."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import unquote

import orjson
from multidict import CIMultiDict
from selectolax.lexbor import LexborHTMLParser

from proxy.core import hypertext, jsonapi, plainpage
from proxy.core.anchors import events_of
from proxy.core.messages import FileTarget, JsonTarget
from proxy.core.negotiation import HTML, HTML_V1, JSON_V1
from proxy.core.projects import Events, JsonEvents
from proxy.core.projectwriters import HtmlWriter, JsonWriter
from proxy.core.simple import Page, dump_listing, load_listing, parse, relocate, render
from proxy.core.urls import link_of, location_of, parse_target, usable_name
from proxy.errors import MalformedPage
from proxy.web.gate import admit
from tests.fuzz.parser import Parser, in_pieces

PROJECT = "six"
URL = "https://example.com/simple/six/"
LIST = "https://example.com/simple/"
UP = "../../files/test/"


def html_page(data: bytes) -> None:
    """What is a page stays one: written and read again it says the same, and nothing of it is markup."""
    page = _page(data, HTML)
    if page is None:
        return
    assert page.document["meta"]["api-version"] == "1.0"
    written = render(page.document, HTML_V1)
    again = parse(written, HTML, URL, PROJECT)
    assert [file.url for file in again.files] == [file.url for file in page.files]
    assert [file.filename for file in again.files] == [file.filename for file in page.files]
    assert render(again.document, HTML_V1) == written


def json_page(data: bytes) -> None:
    """Read again it is the same; as HTML it has the same links and no tag more."""
    page, plain = _page(data, JSON_V1), plainpage.read(data, PROJECT, UP)
    if plain is not None:
        assert page is not None
        assert orjson.loads(plain.text) == relocate(page.document, lambda url: UP + link_of(url))
        assert (plain.files, plain.links) == (page.files, page.links)
    if page is None:
        return
    assert parse(render(page.document, JSON_V1), JSON_V1, URL, PROJECT) == page
    tree = LexborHTMLParser(render(page.document, HTML_V1))
    anchors = [node.attributes["href"] or "" for node in tree.css("a")]
    assert [href.partition("#")[0] for href in anchors] == [file.url for file in page.files]
    # html, head, meta with its charset and version, title, body, h1, and a line for each file.
    status = page.document.get("project-status")
    if not status and "tracks" not in page.document["meta"] and "alternate-locations" not in page.document:
        assert len(tree.css("*")) == 7 + 2 * len(anchors)


def _page(data: bytes, media_type: str) -> Page | None:
    """The page, if it is one, and what holds for every page."""
    try:
        page = parse(data, media_type, URL, PROJECT)
    except MalformedPage as error:
        assert error.status == 503
        return None
    assert load_listing(dump_listing(page.files)) == page.files
    for file in relocate(page.document, link_of)["files"]:
        # What we say ourselves is let in.
        admit("GET", f"/files/test/{file['url']}", (1, 1), CIMultiDict(), ())
    for listed in page.files:
        linked(listed.url)
    return page


def linked(url: str) -> None:
    """A link of a page leads to a path here that is this very file's, and no other's."""
    assert hypertext.absolute(url, URL) == url
    try:
        path = link_of(url)
    except ValueError:
        return
    target = parse_target(f"/files/test/{path}", ["test"], "test")
    name = location_of(url).rpartition("/")[2]
    if isinstance(target, FileTarget) and not target.metadata:
        assert target.location == location_of(url)
    else:
        assert name.endswith(".metadata") or not usable_name(unquote(name))


def html_list(data: bytes) -> None:
    """See ``_listed``."""
    _listed(data, HTML)


def json_list(data: bytes) -> None:
    """See ``_listed``."""
    _listed(data, JSON_V1)


def _listed(data: bytes, media_type: str) -> None:
    """What comes of it does not depend on how it was cut; written it is read as the same, and as HTML it is a list of
    as many projects."""
    whole = _read(events_of(media_type, LIST, LIST), [data])
    assert whole == _read(events_of(media_type, LIST, LIST), in_pieces(data))
    if whole is None:
        return
    document = orjson.loads(whole)
    assert _read(JsonEvents(), [whole]) == whole
    writer = HtmlWriter(JsonEvents())
    tree = LexborHTMLParser(writer.feed(whole) + writer.finish())
    assert len(tree.css("a")) == len(document["projects"])
    assert all("/" not in (node.attributes["href"] or "")[:-1] for node in tree.css("a"))


def _read(events: Events, pieces: Iterable[bytes]) -> bytes | None:
    """The list as JSON, None when it is none."""
    writer = JsonWriter(events)
    try:
        return b"".join(map(writer.feed, pieces)) + writer.finish()
    except MalformedPage as error:
        assert error.status == 503
        return None


def document(data: bytes) -> None:
    """Whatever root is put in, it is JSON, and only the roots differ; all its file URLs lead here."""
    target = JsonTarget("test", PROJECT, "1.0")
    try:
        read = jsonapi.parse(data, target)
    except MalformedPage as error:
        assert error.status == 503
        return
    base = jsonapi.base_of(read, URL, "test")
    ours, theirs = (jsonapi.rooted(base, root) for root in ("http://a.example.com", "https://b.example.com:8443/x"))
    assert theirs == ours.replace(b"http://a.example.com/files/test/", b"https://b.example.com:8443/x/files/test/") or (
        b"http://a.example.com" in data
    )
    made = orjson.loads(ours)
    assert made["info"] == orjson.loads(orjson.dumps(read["info"]))
    files = made["urls"] if isinstance(made.get("urls"), list) else []
    for file in files:
        if isinstance(file, dict) and "url" in file:
            assert file["url"].startswith("http://a.example.com/files/test/")


_TAGS = (
    *(b"<a href=", b"</a>", b"<base href=", b"<meta name=", b" content=", b"<title>", b"<h1>", b"<script"),
    *(b"<!--", b"-->"),
    *(b"data-yanked", b"data-requires-python", b"data-core-metadata", b"data-dist-info-metadata", b"sha256=", b"true"),
    *(b"pypi:repository-version", b"pypi:project-status", b"pypi:tracks", b"pypi:alternate-locations", b"1.0", b"&#"),
    *(b"six-1.0.tar.gz", b"six-1.0-py3-none-any.whl", b"https://", b"../", b"//", b"%2F", b"&amp;", b"Links for six"),
    *(b"Simple index", b"<form", b"</html>", b"<textarea>", b"</textarea", b"data-provenance", b"data-gpg-sig"),
)
_KEYS = (
    *(b'"meta"', b'"api-version"', b'"1.0"', b'"name"', b'"six"', b'"files"', b'"filename"', b'"url"', b'"hashes"'),
    *(b'"sha256"', b'"size"', b'"upload-time"', b'"core-metadata"', b'"yanked"', b'"provenance"', b'"projects"'),
    *(b'"info"', b'"urls"', b'"releases"', b'"version"', b"[[[[", b"{}", b"null", b"true", b"\\u0000"),
    *(b"\\ud800", b"1e9"),
)

PARSERS = (
    Parser("html-page", html_page, _TAGS),
    Parser("json-page", json_page, _KEYS),
    Parser("html-list", html_list, _TAGS),
    Parser("json-list", json_list, _KEYS),
    Parser("document", document, _KEYS),
)
