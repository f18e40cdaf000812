"""The Simple API: tables for every rule, laws for what must hold whatever a page says."""

from __future__ import annotations

import copy
import random
import re
from html import escape
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from selectolax.lexbor import LexborHTMLParser

from proxy.core import hypertext
from proxy.core.hypertext import absolute
from proxy.core.negotiation import HTML, HTML_V1, JSON_V1, UPSTREAM_ACCEPT, accepts, coding_of, negotiate
from proxy.core.simple import Listed, Page, dump_listing, load_listing, parse, relocate, render
from proxy.errors import MalformedPage

URL = "https://example.com/simple/six/"
LATEST_JSON = "application/vnd.pypi.simple.latest+json"
LATEST_HTML = "application/vnd.pypi.simple.latest+html"
SHA = "0123456789abcdef" * 4


def json_page(**changes: Any) -> dict[str, Any]:
    """A small valid document, with keys replaced; None removes one."""
    page: dict[str, Any] = {"meta": {"api-version": "1.4"}, "name": "six", "files": [], **changes}
    return {key: value for key, value in page.items() if value is not None}


def json_file(**changes: Any) -> dict[str, Any]:
    """A file entry of that document."""
    return {"filename": "six-1.whl", "url": "https://files.example.org/six-1.whl", "hashes": {}, **changes}


def read(document: Any, content_type: str = JSON_V1, url: str = URL) -> Page:
    """Parse a document as JSON."""
    return parse(orjson.dumps(document), content_type, url, "six")


def read_html(text: str | bytes, url: str = URL, project: str = "six") -> Page:
    """Parse text as HTML."""
    return parse(text.encode() if isinstance(text, str) else text, HTML, url, project)


def read_anchor(attributes: str) -> dict[str, Any]:
    """The one file that an anchor with these attributes makes."""
    (file,) = read_html(f"<a href=six-1.whl {attributes}>six</a>").document["files"]
    return dict(file)


# --- types


@pytest.mark.parametrize(
    "content_type",
    [JSON_V1, LATEST_JSON, "application/json", f"{JSON_V1}; charset=utf-8", " Application/JSON"],
)
def test_json_types_are_read_as_json(content_type: str) -> None:
    """Every type that means JSON is read so, parameters and case aside."""
    assert read(json_page(), content_type).document == json_page()


@pytest.mark.parametrize("content_type", [HTML, HTML_V1, LATEST_HTML, "application/xhtml+xml", "Text/HTML;x=y"])
def test_html_types_are_read_as_html(content_type: str) -> None:
    """Every type that means HTML is read so."""
    page = parse(b"<a href=six-1.zip>x</a>", content_type, URL, "six")
    assert [file.filename for file in page.files] == ["six-1.zip"]


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/octet-stream", "image/png", ";"])
def test_other_types_are_malformed(content_type: str) -> None:
    """A type that is neither is no Simple API page, whatever the body."""
    with pytest.raises(MalformedPage):
        parse(orjson.dumps(json_page()), content_type, URL, "six")


# --- JSON


@pytest.mark.parametrize(
    "document",
    [
        [],
        "six",
        None,
        {},
        json_page(meta=None),
        json_page(meta={}),
        json_page(meta=[]),
        json_page(meta={"api-version": 1.0}),
        json_page(meta={"api-version": "2.0"}),
        json_page(meta={"api-version": "1"}),
        json_page(meta={"api-version": "1.x"}),
        json_page(name=None),
        json_page(name=6),
        json_page(name="seven"),
        json_page(files=None),
        json_page(files={}),
        json_page(files=["six-1.whl"]),
        json_page(files=[{"filename": "six-1.whl"}]),
        json_page(files=[json_file(filename=None)]),
        json_page(files=[json_file(url=7)]),
    ],
)
def test_wrong_documents_are_malformed(document: Any) -> None:
    """A document without what PEP 691 demands replaces no good page."""
    with pytest.raises(MalformedPage):
        read(document)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"<html>", b"[" * 5000, orjson.dumps(json_page())[:-1]])
def test_broken_json_is_malformed(body: bytes) -> None:
    """A body that is no JSON, or was cut, is malformed and nothing worse."""
    with pytest.raises(MalformedPage):
        parse(body, JSON_V1, URL, "six")


@pytest.mark.parametrize("name", ["Six", "six", "SIX"])
@pytest.mark.parametrize("version", ["1.0", "1.4", "1.5", "1.23"])
def test_names_and_minor_versions_may_differ(name: str, version: str) -> None:
    """Names are compared normalised, newer minor versions are read, and both stay as they were."""
    document = json_page(name=name, meta={"api-version": version})
    assert read(document).document == document


@pytest.mark.parametrize(("depth", "good"), [(30, True), (31, False), (200, False)])
def test_nesting_is_limited_to_32(depth: int, good: bool) -> None:
    """The document and its key's value count: 30 lists in a list in the object are 32 levels."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    if good:
        assert read(json_page(_deep=value)).document["_deep"] == value
    else:
        with pytest.raises(MalformedPage, match="deeply"):
            read(json_page(_deep=value))


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'{"meta":{"api-version":"1.0"},"name":"six","files":[' + b"0," * 200_000 + b"0]}", JSON_V1),
        (b"<a href=six-1.whl>" * 200_001, HTML),
    ],
)
def test_files_are_limited(body: bytes, content_type: str) -> None:
    """A page with more than 200,000 files is refused before it is looked into."""
    with pytest.raises(MalformedPage, match="too many"):
        parse(body, content_type, URL, "six")


@pytest.mark.parametrize(
    "files",
    [b"[" + b"{}," * 1_000_001 + b"{}]", b"[[" + b"9," * 4_000_001 + b"9]]"],
    ids=["objects", "numbers"],
)
def test_values_are_limited(files: bytes) -> None:
    """So are the values of a JSON page, which take many times its bytes: before any is read."""
    body = b'{"meta":{"api-version":"1.0"},"name":"six","files":[],"more":' + files + b"}"
    with pytest.raises(MalformedPage, match="too many values"):
        parse(body, JSON_V1, URL, "six")


def test_attributes_are_limited() -> None:
    """And the attributes of all tags of a page, which do, too: 1,600,000."""
    anchor = b"<a data-a data-b data-c data-d data-e data-f data-g data-h data-i href=six-1.zip>"
    assert len(parse(anchor * 10_000, HTML, URL, "six").files) == 10_000
    with pytest.raises(MalformedPage, match="too many"):
        parse(anchor * 165_000, HTML, URL, "six")


LINKS = [
    ("https://files.example.org/a/six-1.whl", "https://files.example.org/a/six-1.whl"),
    ("http://files.example.org:81/a/six-1.whl?x=%2f&y", "http://files.example.org:81/a/six-1.whl?x=%2f&y"),
    ("https://files.example.org/a/six-1.whl#sha256=12", "https://files.example.org/a/six-1.whl"),
    ("https://files.example.org/a/../six-1.whl", "https://files.example.org/a/../six-1.whl"),
    ("HTTPS://files.example.org/six-1.whl", "https://files.example.org/six-1.whl"),
    ("https://[::1]:8080/six-1.whl", "https://[::1]:8080/six-1.whl"),
    ("//files.example.org/six-1.whl", "https://files.example.org/six-1.whl"),
    ("/f/six-1.whl", "https://example.com/f/six-1.whl"),
    ("six-1.whl", "https://example.com/simple/six/six-1.whl"),
    ("./six-1.whl", "https://example.com/simple/six/six-1.whl"),
    ("../../f/six-1.whl?a=b", "https://example.com/f/six-1.whl?a=b"),
    ("../../../../f/six-1.whl", "https://example.com/f/six-1.whl"),
    ("x/../six-1.whl", "https://example.com/simple/six/six-1.whl"),
    ("?f=six-1.whl", "https://example.com/simple/six/?f=six-1.whl"),
    (" \n/f/six\t-1 2.whl ", "https://example.com/f/six-1%202.whl"),
    ("/f/six-1\u00e9.whl", "https://example.com/f/six-1%C3%A9.whl"),
    ("/f/six-1\r\nx:y\\.whl", "https://example.com/f/six-1x:y%5C.whl"),
    ("/f/six-1\x7f\x00.whl", "https://example.com/f/six-1%7F%00.whl"),
    ("ftp://files.example.org/six-1.whl", None),
    ("file:///f/six-1.whl", None),
    ("javascript:six-1.whl", None),
    ("data:,six-1.whl", None),
    ("https://[bad/six-1.whl", None),
    ("mailto:six-1.whl", None),
]


@pytest.mark.parametrize(("link", "url"), LINKS)
def test_links_are_resolved(link: str, url: str | None) -> None:
    """Absolute links keep their spelling, relative ones follow RFC 3986, what is not http(s) is nothing."""
    assert absolute(link, URL) == url


@pytest.mark.parametrize(("link", "url"), LINKS)
def test_json_files_are_resolved_or_left_out(link: str, url: str | None) -> None:
    """One file that leads nowhere is left out, the others stay."""
    page = read(json_page(files=[json_file(url=link), json_file()]))
    expected = [json_file(url=url)] * (url is not None) + [json_file()]
    assert page.document["files"] == expected
    assert [file.url for file in page.files] == [file["url"] for file in expected]


@pytest.mark.parametrize(
    ("provenance", "expected"),
    [
        ("https://example.org/p#x", "https://example.org/p#x"),
        ("/integrity/six", "https://example.com/integrity/six"),
        ("javascript:x", "javascript:x"),
        (None, None),
        (7, 7),
    ],
)
def test_provenance_is_fully_qualified(provenance: Any, expected: Any) -> None:
    """PEP 740 wants an absolute URL: a relative one is resolved, everything else stays."""
    (file,) = read(json_page(files=[json_file(provenance=provenance)])).document["files"]
    assert file["provenance"] == expected


@pytest.mark.parametrize(
    ("keys", "facts"),
    [
        ({}, {}),
        ({"hashes": {"SHA256": SHA.upper(), "md5": "zz", "x": 1}}, {"hashes": {"sha256": SHA}}),
        ({"hashes": None}, {}),
        ({"hashes": [SHA]}, {}),
        ({"size": 0}, {"size": 0}),
        ({"size": 5_000_000_000}, {"size": 5_000_000_000}),
        ({"size": -1}, {}),
        ({"size": True}, {}),
        ({"size": "12"}, {}),
        ({"size": 1.5}, {}),
        ({"upload-time": "2024-01-01T00:00:00Z"}, {"upload_time": "2024-01-01T00:00:00Z"}),
        ({"upload-time": 3}, {}),
        ({"core-metadata": True}, {"metadata": {}}),
        ({"core-metadata": {}}, {"metadata": {}}),
        ({"core-metadata": {"Sha256": "AB"}}, {"metadata": {"sha256": "ab"}}),
        ({"core-metadata": False, "dist-info-metadata": True}, {}),
        ({"core-metadata": None, "dist-info-metadata": {"sha256": "ab"}}, {"metadata": {"sha256": "ab"}}),
        ({"dist-info-metadata": True}, {"metadata": {}}),
        ({"core-metadata": "true"}, {}),
    ],
)
def test_listed_facts(keys: dict[str, Any], facts: dict[str, Any]) -> None:
    """Odd values are unknown in the listing and untouched in the document."""
    file = json_file(**keys)
    page = read(json_page(files=[file]))
    assert page.document["files"] == [file]
    assert page.files == (Listed(**{"filename": file["filename"], "url": file["url"], "hashes": {}, **facts}),)


def test_wheel_variants_are_served() -> None:
    """Names that today's tools refuse (PEP 825) are listed all the same, in JSON and in HTML."""
    name = "six-1.0-py3-none-any-x86_64_v3.whl"
    page = read(json_page(files=[json_file(filename=name, url=f"https://example.org/{name}")]))
    assert [file.filename for file in page.files] == [name]
    assert [file.filename for file in read_html(render(page.document, HTML)).files] == [name]


# --- HTML


@pytest.mark.parametrize(
    ("attributes", "key", "value"),
    [
        ('data-requires-python="&gt;=3.8,&lt;4"', "requires-python", ">=3.8,<4"),
        ("data-requires-python", "requires-python", ""),
        ("data-yanked", "yanked", True),
        ('data-yanked=""', "yanked", True),
        ('DATA-YANKED="a &quot;b&quot;"', "yanked", 'a "b"'),
        ("data-core-metadata=true", "core-metadata", True),
        ("data-core-metadata=TRUE", "core-metadata", True),
        ("data-core-metadata=false", "core-metadata", False),
        ("data-core-metadata", "core-metadata", False),
        ("data-core-metadata=sha256=ab", "core-metadata", {"sha256": "ab"}),
        ("data-dist-info-metadata='sha256=ab'", "dist-info-metadata", {"sha256": "ab"}),
        ("data-gpg-sig=true", "gpg-sig", True),
        ("data-gpg-sig=false", "gpg-sig", False),
        ("data-provenance=https://example.org/p", "provenance", "https://example.org/p"),
        ("data-provenance=/p", "provenance", "https://example.com/p"),
        ("data-provenance=javascript:p", "provenance", "javascript:p"),
        ("data-upload-time=2024-01-01T00:00:00Z", "upload-time", "2024-01-01T00:00:00Z"),
        ("data-new-thing='x y'", "_data-new-thing", "x y"),
        ("data-new-thing", "_data-new-thing", ""),
    ],
)
def test_attributes_become_keys(attributes: str, key: str, value: Any) -> None:
    """Each data attribute becomes its JSON key; an unknown one is kept under a private key."""
    assert read_anchor(f"class=x {attributes}") == {
        "filename": "six-1.whl",
        "url": "https://example.com/simple/six/six-1.whl",
        "hashes": {},
        key: value,
    }


@pytest.mark.parametrize(
    ("fragment", "hashes"),
    [
        ("", {}),
        ("#", {}),
        (f"#sha256={SHA}", {"sha256": SHA}),
        (f"#SHA256={SHA.upper()}", {"sha256": SHA}),
        (f"#egg=face&md5={SHA[:32]}", {"md5": SHA[:32]}),
        (f"#sha256={SHA}&md5={SHA[:32]}", {"sha256": SHA, "md5": SHA[:32]}),
        ("#sha256=nothex", {}),
        ("#sha256=", {}),
        (f"#x#sha256={SHA}", {}),
    ],
)
def test_fragments_hold_hashes(fragment: str, hashes: dict[str, str]) -> None:
    """PEP 503: the fragment names a hash; the URL goes on without it and keeps its query."""
    (file,) = read_html(f'<a href="six-1.whl?a=1{fragment}">x</a>').files
    assert file == Listed("six-1.whl", "https://example.com/simple/six/six-1.whl?a=1", hashes)


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("<base href=https://files.example.org/f/>", "https://files.example.org/f/six-1.whl"),
        ("<base href=/f/>", "https://example.com/f/six-1.whl"),
        ("<base target=x><base href=/f/><base href=/g/>", "https://example.com/f/six-1.whl"),
        ("<base href=data:x>", "https://example.com/simple/six/six-1.whl"),
        ("<base href>", "https://example.com/simple/six/six-1.whl"),
        ("<!-- <base href=/f/> -->", "https://example.com/simple/six/six-1.whl"),
    ],
)
def test_base_is_honoured(base: str, url: str) -> None:
    """The first base with a href counts, wherever it stands; one that leads nowhere does not."""
    for text in (f"{base}<a href=six-1.whl>x</a>", f"<a href=six-1.whl>x</a>{base}"):
        assert [file.url for file in read_html(text).files] == [url]


@pytest.mark.parametrize(
    "name",
    [
        *(
            "six-1.whl",
            "six-1.tar.gz",
            "Six-1.zip",
            "six-1.tar.bz2",
            "six-1.tgz",
            "six-1.tar.xz",
            "six-1.tar.Z",
        ),
        *(
            "six-1.tar",
            "six-1-py2.egg",
            "six-1.win32.exe",
            "six-1.msi",
            "six-1.noarch.rpm",
            "six_1.deb",
            "six-1.DMG",
        ),
    ],
)
def test_distribution_files_are_kept(name: str) -> None:
    """Whatever was ever published as a distribution is a file."""
    assert [file.filename for file in read_html(f"<a href='/f/{name}'>x</a>").files] == [name]


def test_names_are_decoded() -> None:
    """The file's name is the decoded last segment of the path, not the anchor's text and not the host."""
    page = read_html("<a href='/f/six-1%2Blocal.whl?x=/y.zip'>other</a><a href='https://six-2.zip'>x</a>")
    assert [file.filename for file in page.files] == ["six-1+local.whl"]


def test_navigation_is_ignored() -> None:
    """Links that name no file, signatures, metadata and anchors without a link are no files."""
    links = [
        "../",
        "#top",
        "",
        "six-1.whl.asc",
        "six-1.whl.metadata",
        "index.html",
        "/six-1/",
        "ftp://example.org/six-2.whl",
    ]
    anchors = "".join(f"<a href='{link}'>x</a>" for link in links)
    page = read_html(f"<a name=x></a><a></a>{anchors}<a href=six-1.whl>")
    assert [file.filename for file in page.files] == ["six-1.whl"]


@pytest.mark.parametrize(
    "text",
    [
        "<!-- <a href=six-2.whl> -->",
        "<!--><!---><!-- <a href=six-2.whl> --!>",
        "<script>'<a href=six-2.whl>'</script>",
        "<STYLE ><a href=six-2.whl></style x>",
        "<title><a href=six-2.whl></title>",
        "<textarea><a href=six-2.whl></titlex></textarea>",
        "<div title='<a href=six-2.whl>'>",
        "<abbr href=six-2.whl>",
        "< a href=six-2.whl>",
        "</a href=six-2.whl>",
        "</ <a href=six-2.whl>",
        "<? <a href=six-2.whl>",
        "<!x <a href=six-2.whl>",
    ],
)
def test_only_anchors_are_anchors(text: str) -> None:
    """What merely looks like a tag - in comments, raw text, attribute values - is none (HTML §13.2.5)."""
    page = read_html(f"{text}<A\nHREF = 'six-1.whl'>x</A>")
    assert [file.filename for file in page.files] == ["six-1.whl"]


@pytest.mark.parametrize(
    "cut",
    ["<a href=six-2.whl", "<a href='six-2.whl>", "<!-- <a href=six-2.whl>", "<script><a href=six-2.whl>"],
)
def test_a_cut_tag_is_no_tag(cut: str) -> None:
    """A tag that the end of the text cuts off names no file: half a hash would be worse than none."""
    assert [file.filename for file in read_html(f"<a href=six-1.whl>x</a>{cut}").files] == ["six-1.whl"]


def test_excess_attributes_are_dropped() -> None:
    """Only the first 32 attributes of a tag are looked at."""
    many = " ".join(f"data-x{number}=1" for number in range(100))
    assert len(read_anchor(many)) == 3 + 31


@pytest.mark.parametrize(
    "body",
    [
        b"<div>" * 200_000,
        b"<a " * 300_000,
        b"<a/x=" * 200_000,
        b"<a x='\"" * 200_000,
        b"<!--" * 200_000,
        b"<" * 500_000,
        b"<a " + b"".join(b"x%d " % number for number in range(100_000)) + b">",
        b"<p>" + b"".join(b"<b x=%d>" % number for number in range(1000)) + b"<p>x" * 20_000,
        b"<h1 " * 100_000,
    ],
    ids=[
        "deep",
        "unclosed",
        "slashes",
        "quotes",
        "comments",
        "angles",
        "attributes",
        "formatting",
        "headings",
    ],
)
def test_hostile_pages_take_linear_time(body: bytes) -> None:
    """Pages that take a tree builder minutes are answered at once (a regression would show as a hang)."""
    with pytest.raises(MalformedPage):
        read_html(body)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html><body>Please sign in <a href=/login>here</a>",
        "<title>Hotel</title><h1>Welcome</h1><a href=logo.png>",
        "<title>Links for seven</title>",
        "<title>Simple</title>",
        "<meta name=viewport content=x>",
        "<meta name=pypi:repository-version content=2.0><a href=six-1.whl>",
        "<meta name=pypi:repository-version content>",
        "<a href=seven-1.whl>x</a>",
        "<meta name=pypi:repository-version content=1.0><a href=sixty-1.whl>x</a>",
        "<a href=installer.exe>",
    ],
)
def test_captive_portals_are_malformed(text: str) -> None:
    """A page that names no file of the project, and does not say it is an index, replaces nothing."""
    with pytest.raises(MalformedPage):
        read_html(text)


@pytest.mark.parametrize(
    "text",
    [
        "<meta name='PyPI:repository-version' content=' 1.0 '>",
        "<title>Links for six</title>",
        "<title>x</title><h1>Links for Six</h1>",
        "<title>root/dev: links for <b>six</b></title><h1>links from root for six</h1>",
        "<h1 class=x>Simple index</h1>",
        "<title>Simple Package Index</title>",
    ],
)
def test_empty_projects_are_valid(text: str) -> None:
    """A project without files is a page when the page says what it is."""
    assert read_html(text).document == json_page(meta={"api-version": "1.0"})


@pytest.mark.parametrize("name", ["Foo_Bar-1.whl", "foo.bar-1.zip", "foo-bar_1.deb", "FOO--BAR-1.tgz"])
def test_one_file_of_the_project_is_enough(name: str) -> None:
    """Separators and case are folded, and files of others on the page do no harm."""
    page = read_html(f"<a href=other-1.whl></a><a href={name}></a>", project="foo-bar")
    assert [file.filename for file in page.files] == ["other-1.whl", name]


def test_html_claims_no_more_than_it_has() -> None:
    """HTML has no sizes: what is made of it says 1.0, with status, tracks and alternate locations carried."""
    page = read_html(
        "<meta name=pypi:repository-version content=1.4>"
        "<meta name=pypi:project-status content=archived>"
        "<meta name=pypi:project-status-reason content='a &amp; b'>"
        "<meta name=pypi:tracks content=https://example.org/1><meta name=pypi:tracks content=https://example.org/2>"
        "<meta name=pypi:alternate-locations content=https://example.org/3>"
    )
    assert page.document == {
        "meta": {"api-version": "1.0", "tracks": ["https://example.org/1", "https://example.org/2"]},
        "name": "six",
        "files": [],
        "project-status": {"status": "archived", "reason": "a & b"},
        "alternate-locations": ["https://example.org/3"],
    }
    again = read_html(render(page.document, HTML))
    assert again.document == page.document


def test_a_status_needs_no_reason() -> None:
    """A status without a reason has none afterwards (PEP 792)."""
    document = read_html("<h1>Simple index</h1><meta name=pypi:project-status content=active>").document
    assert document["project-status"] == {"status": "active"}
    assert b"project-status-reason" not in render(document, HTML)


@pytest.mark.parametrize(
    ("version", "said"),
    [("1.0", "1.0"), ("1.3", "1.3"), ("1.4", "1.4"), ("1.5", "1.4"), ("1.12", "1.4"), ("odd", "1.0")],
)
def test_html_is_frozen_at_1_4(version: str, said: str) -> None:
    """HTML says the lower of the document's version and 1.4 (PEP 833)."""
    text = render(json_page(meta={"api-version": version}), HTML).decode()
    assert re.findall(r'repository-version" content="([^"]*)"', text) == [said]


@pytest.mark.parametrize(
    ("keys", "attributes"),
    [
        ({}, ""),
        ({"requires-python": ">=3"}, ' data-requires-python="&gt;=3"'),
        ({"requires-python": None, "upload-time": None}, ""),
        ({"upload-time": "2024"}, ' data-upload-time="2024"'),
        ({"yanked": False}, ""),
        ({"yanked": ""}, ""),
        ({"yanked": True}, ' data-yanked=""'),
        ({"yanked": "a\"'<&>\r"}, ' data-yanked="a&quot;&#x27;&lt;&amp;&gt;&#13;"'),
        ({"core-metadata": True}, ' data-core-metadata="true" data-dist-info-metadata="true"'),
        (
            {"dist-info-metadata": {"md5": "cd", "sha256": "ab"}},
            ' data-core-metadata="sha256=ab" data-dist-info-metadata="sha256=ab"',
        ),
        ({"core-metadata": {"sha256": 3}}, ' data-core-metadata="true" data-dist-info-metadata="true"'),
        ({"core-metadata": False, "dist-info-metadata": True}, ""),
        ({"gpg-sig": True}, ' data-gpg-sig="true"'),
        ({"gpg-sig": False}, ' data-gpg-sig="false"'),
        ({"gpg-sig": None, "provenance": None}, ""),
        ({"provenance": "https://example.org/p"}, ' data-provenance="https://example.org/p"'),
        (
            {"_data-x": "1", "_x": "2", "_data-y": 3, "_data-z onclick": "4", "_data-yanked": "5"},
            ' data-x="1"',
        ),
        ({"_data-core-metadata": "true", "_data-yanked-by": "x"}, ' data-yanked-by="x"'),
    ],
)
def test_keys_become_attributes(keys: dict[str, Any], attributes: str) -> None:
    """Each JSON key that HTML knows becomes its attribute; a private key cannot forge a known one."""
    text = render(json_page(files=[json_file(**keys)]), HTML_V1).decode()
    assert f'<a href="https://files.example.org/six-1.whl"{attributes}>six-1.whl</a><br>\n' in text


@pytest.mark.parametrize(
    ("hashes", "fragment"),
    [
        ({"md5": "cd", "sha256": "ab"}, "#sha256=ab"),
        ({"md5": "cd", "blake2b": "ef"}, "#md5=cd"),
        ({"sha256": ""}, ""),
        ({"sha256": None, "md5": "cd"}, "#md5=cd"),
        ({}, ""),
        (None, ""),
    ],
)
def test_one_hash_is_shown(hashes: Any, fragment: str) -> None:
    """The fragment has room for one hash: sha256, else the first."""
    text = render(json_page(files=[json_file(hashes=hashes)]), HTML).decode()
    assert f'href="https://files.example.org/six-1.whl{fragment}"' in text


@pytest.mark.parametrize("odd", [None, 7, "archived", [], {"status": 7, "reason": ["x"]}])
def test_odd_page_keys_do_not_reach_html(odd: Any) -> None:
    """Keys of the wrong kind are left out of the HTML instead of failing it."""
    document = json_page(**{"project-status": odd or 0, "alternate-locations": odd or 0})
    assert b"pypi:project-status" not in render(document, HTML)
    assert b"pypi:alternate" not in render(document, HTML)


# --- relocate and the listing


def test_relocate_changes_urls_only() -> None:
    """Only the files' URLs change, the input does not, and a URL without a place here is left out."""

    def link(url: str) -> str:
        if "bad" in url:
            raise ValueError(url)
        return "../../files/" + url.removeprefix("https://")

    document = json_page(files=[json_file(yanked=True), json_file(url="https://bad.example.org/x")], _x=[1])
    before = copy.deepcopy(document)
    moved = relocate(document, link)
    assert moved == json_page(files=[json_file(yanked=True, url="../../files/files.example.org/six-1.whl")], _x=[1])
    assert document == before


@pytest.mark.parametrize(
    "dumped",
    [
        *(b"", b"{", b"null", b"{}", b"[1]", b"[[]]", b'["abcdef"]', b'[["a","b",{}]]'),
        *(b'[[1,"b",{},null,null,null]]', b'[["a",1,{},null,null,null]]', b'[["a","b",[],null,null,null]]'),
        *(
            b'[["a","b",{"x":1},null,null,null]]',
            b'[["a","b",{},"1",null,null]]',
            b'[["a","b",{},true,null,null]]',
        ),
        *(b'[["a","b",{},1,1,null]]', b'[["a","b",{},1,"t",true]]', b'[["a","b",{},1,"t",{"x":null}]]'),
    ],
)
def test_garbage_is_no_listing(dumped: bytes) -> None:
    """A listing that does not read back is a ValueError, so that the store can drop it."""
    with pytest.raises(ValueError):  # noqa: PT011 - the promise is the class alone
        load_listing(dumped)


# --- negotiation

PIP = f"{JSON_V1}, {HTML_V1}; q=0.1, text/html; q=0.01"


@pytest.mark.parametrize(
    ("accept", "answer"),
    [
        (None, HTML),
        ("", HTML),
        ("  ", HTML),
        ("*/*", HTML),
        ("*/*;q=0.1", HTML),
        (PIP, JSON_V1),
        (f"{JSON_V1}, {HTML_V1};q=0.2, text/html;q=0.01", JSON_V1),
        (f"{JSON_V1}, */*;q=0.1", JSON_V1),
        (UPSTREAM_ACCEPT, JSON_V1),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", HTML),
        ("text/html, */*", HTML),
        (f"{HTML_V1}, */*", HTML_V1),
        (f"{JSON_V1}, {HTML_V1}, text/html", JSON_V1),
        (f"text/html, {HTML_V1}", HTML_V1),
        (f"{JSON_V1};q=0.5, text/html", HTML),
        ("application/*", JSON_V1),
        ("text/*", HTML),
        ("text/*, application/*", JSON_V1),
        ("application/*;q=0.5, text/*;q=0.6", HTML),
        (LATEST_JSON, JSON_V1),
        (LATEST_HTML, HTML_V1),
        (f"{LATEST_HTML};q=0.5, {LATEST_JSON};q=0.4", HTML_V1),
        ("TEXT/HTML", HTML),
        ("text/html ; Q = 0.5", HTML),
        ('text/html;charset="utf-8"', HTML),
        ("text/html;q=1.000;ext=1", HTML),
        ("text/html;;q=0.3;", HTML),
        ("*/*, text/html;q=0", JSON_V1),
        (f"*/*, text/html;q=0, {JSON_V1};q=0.0", HTML_V1),
        ("application/*;q=0, */*", HTML),
        (f"{JSON_V1};q=0.2, {JSON_V1};q=0.9, text/html;q=0.5", JSON_V1),
        (f'x/y;z="a,{JSON_V1};q=1", text/html', HTML),
        (f'x/y;z="a\\",{JSON_V1}", text/html', HTML),
        ("application/json", None),
        ("application/vnd.pypi.simple.v2+json", None),
        ("image/*", None),
        ("*/*;q=0", None),
        ("text/html;q=0", None),
        ("text/html;level=1", None),
        ("text/html;q=2", None),
        ("text/html;q=-1", None),
        ("text/html;q=x", None),
        ("text/html;q", None),
        ("*", None),
        (",,;;,", None),
        ('"', None),
    ],
)
def test_accept_decides(accept: str | None, answer: str | None) -> None:
    """RFC 9110 §12.5.1: weights, then the more specific range; */* alone is HTML; nothing left is 406."""
    assert negotiate(accept, None) == answer


@pytest.mark.parametrize(
    ("wanted", "answer"),
    [
        (JSON_V1, JSON_V1),
        (HTML_V1, HTML_V1),
        (HTML, HTML),
        (LATEST_JSON, JSON_V1),
        (LATEST_HTML, HTML_V1),
        ("application/vnd.pypi.simple.v1 json", JSON_V1),
        ("Text/Html", HTML),
        ("json", None),
        ("application/json", None),
        ("*/*", None),
        ("", None),
    ],
)
def test_format_wins_over_accept(wanted: str, answer: str | None) -> None:
    """PEP 691: the URL parameter holds one media type, and the header is not asked."""
    assert negotiate("text/html", wanted) == answer
    assert negotiate(None, wanted) == answer


@pytest.mark.parametrize(
    ("accept", "media_type", "taken"),
    [
        (None, "application/json", True),
        ("", "application/json", True),
        ("*/*", "application/json", True),
        ("application/*;q=0.1", "application/json; charset=utf-8", True),
        ("application/json;q=0, */*", "application/json", False),
        ("text/html", "application/json", False),
        (LATEST_JSON, JSON_V1, True),
    ],
)
def test_accepts(accept: str | None, media_type: str, taken: bool) -> None:
    """Any media type can be asked about; saying nothing takes everything."""
    assert accepts(accept, media_type) is taken


@pytest.mark.parametrize(
    ("accept_encoding", "coding"),
    [
        (None, ""),
        ("", ""),
        (" , ,", ""),
        ("identity", ""),
        ("Identity", ""),
        ("gzip", "gzip"),
        ("GZip", "gzip"),
        ("x-gzip", "gzip"),
        ("x-gzip;q=0.2, gzip;q=0", "gzip"),
        ("zstd", "zstd"),
        ("ZStd ; Q=1", "zstd"),
        ("x-zstd", ""),
        ("gzip, deflate, zstd", "zstd"),  # uv, Poetry
        ("gzip, br, zstd, deflate", "zstd"),  # uv
        ("gzip, deflate, br, zstd", "zstd"),  # browsers
        ("gzip, deflate", "gzip"),  # pip, PDM
        ("br, deflate", ""),
        ("deflate;q=1, gzip;q=0.001", "gzip"),
        ("gzip;q=0.8, zstd;q=0.9", "zstd"),
        ("gzip;q=0.9, zstd;q=0.8", "gzip"),
        ("zstd;q=0.5, gzip;q=0.5", "zstd"),
        ("gzip;q=0, zstd", "zstd"),
        ("zstd;q=0, gzip", "gzip"),
        ("gzip;q=0", ""),
        ("gzip;q=0, zstd;q=0.0", ""),
        ("gzip;q=0.000, *", ""),
        ("*", "gzip"),
        ("*;q=0", ""),
        ("*;q=0, gzip", "gzip"),
        ("*;q=0, zstd", "zstd"),
        ("*, zstd;q=0.5", "gzip"),
        ("*;q=0.5, zstd;q=0.5", "zstd"),
        ("gzip, identity", "gzip"),
        ("zstd, identity", "zstd"),
        ("gzip;q=0.5, identity", ""),
        ("gzip;q=0.5, zstd;q=0.9, identity;q=0.7", "zstd"),
        ("gzip, identity;q=0", "gzip"),
        ("br, identity;q=0", ""),
        ("gzip;q=x", ""),
        ("gzip;q=2, zstd;q=-1", ""),
        ("zstd;dictionary=1, gzip", "gzip"),
    ],
)
def test_coding_of(accept_encoding: str | None, coding: str) -> None:
    """RFC 9110 §12.5.3, with the cautions that silence means none and that ``*`` does not mean zstd."""
    assert coding_of(accept_encoding) == coding


# --- laws

text = st.text(max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(text, children, max_size=3),
    max_leaves=6,
)
unknown = st.dictionaries(text, values, max_size=3)
segments = st.text("abcXYZ019._~-+%!$&'()*,;=@: é", min_size=1, max_size=12)
json_files = st.builds(
    lambda keys, path, query: (
        keys
        | {
            "filename": f"six-{path}",
            "url": absolute(f"https://files.example.org/{path}{query}", URL),
            "provenance": None,
        }
    ),
    unknown,
    segments,
    st.sampled_from(["", "?a=b", "?"]),
)
documents = st.builds(
    lambda keys, meta, files: keys | {"meta": meta | {"api-version": "1.9"}, "name": "SIX", "files": files},
    unknown,
    unknown,
    st.lists(json_files, max_size=3),
)


@given(documents)
def test_json_is_carried_whole(document: dict[str, Any]) -> None:
    """What is parsed and rendered again is the same document, unknown keys at every level included."""
    assert read(document).document == document
    assert parse(render(document, JSON_V1), JSON_V1, "http://other.example.com/", "six").document == document


@given(documents)
def test_relocating_leaves_all_else_equal(document: dict[str, Any]) -> None:
    """Relocating there and back is the identity, and never changes its input."""
    before = copy.deepcopy(document)
    moved = relocate(document, lambda url: f"../{url}")
    assert [file["url"] for file in moved["files"]] == [f"../{file['url']}" for file in document["files"]]
    assert relocate(moved, lambda url: url[3:]) == document == before


# HTML has no NUL, and its attributes no line endings but the newline unless escaped, which render does.
hostile = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12) | st.sampled_from(
    ['"><script>', "'", "&amp;", "</a>", "<!--", "\r\n", "&#13;", "`", "a=b"]
)
digests = st.text("0123456789abcdef", min_size=32, max_size=64)
optional = st.fixed_dictionaries(
    {},
    optional={
        "requires-python": hostile,
        "yanked": st.booleans() | hostile.filter(bool),
        "upload-time": hostile,
        "gpg-sig": st.booleans(),
        "core-metadata": st.just(True) | st.builds(lambda digest: {"sha256": digest}, digests),
        "_data-x": hostile,
    },
)
html_files = st.builds(
    lambda keys, name, hashes: (
        keys
        | {
            "filename": f"six-{name}.whl",
            "url": absolute(f"/f/six-{quote(name, safe='')}.whl", URL),
            "hashes": hashes,
        }
    ),
    optional,
    hostile.map(lambda name: name.replace("/", "")),
    st.just({}) | st.builds(lambda name, digest: {name: digest}, st.sampled_from(["sha256", "md5", "x_1"]), digests),
)


@given(st.lists(html_files, min_size=1, max_size=4))
def test_html_says_what_it_can(files: list[dict[str, Any]]) -> None:
    """Hostile names and texts survive the way through HTML: same files, hashes, yanks, requirements."""
    before = read(json_page(files=files))
    after = read_html(render(before.document, HTML), url="http://other.example.com/")
    assert after.files == before.files
    for file, again in zip(before.document["files"], after.document["files"], strict=True):
        metadata = {"dist-info-metadata": file["core-metadata"]} if "core-metadata" in file else {}
        dropped = {"yanked"} if file.get("yanked") is False else set()
        assert again == {key: value for key, value in file.items() if key not in dropped} | metadata


@given(hostile, hostile, hostile)
def test_nothing_breaks_out_of_the_html(name: str, reason: str, file: str) -> None:
    """Whatever a page says, the HTML made of it has the elements it should have and no other."""
    document = json_page(
        name=name,
        files=[json_file(filename=file, url=file)],
        **{"project-status": {"status": reason, "reason": name}},
    )
    body = LexborHTMLParser(render(document, HTML))
    assert {node.tag for node in body.css("*")} == {"html", "head", "meta", "title", "body", "h1", "a", "br"}
    assert len(body.css("a")) == 1
    assert all(node.attributes.keys() <= {"href", "name", "content", "charset"} for node in body.css("*"))


pieces = st.sampled_from(
    [
        *(
            "<a ",
            "<A\t",
            "<a/",
            "<base ",
            "<meta ",
            "<b ",
            "<br>",
            "</a>",
            "</p >",
            "<p>",
            "<!-- x -->",
            "<!doctype html>",
        ),
        *(
            "href=",
            "href = ",
            "title='>",
            "x",
            '"',
            "'",
            ">",
            "/>",
            "six-1.whl",
            " ",
            "\n",
            "=",
            "/",
            "&gt;",
            "<",
            "\x0b",
        ),
    ]
)


@given(st.lists(pieces, max_size=30).map("".join))
def test_the_tokeniser_sees_what_a_browser_sees(markup: str) -> None:
    """The tags taken out of a page are those a full parser finds in it, with the same attributes."""
    body = f"<body>{markup}".encode()
    whole = {repr(node.attributes) for node in LexborHTMLParser(body).css("a, base, meta")}
    assert {repr(attributes) for _, attributes in hypertext._tags(body)} == whole


@given(st.binary(max_size=200) | st.lists(pieces, max_size=20).map(lambda parts: "".join(parts).encode()))
def test_any_bytes_parse_or_are_malformed(body: bytes) -> None:
    """No body makes the parser fail in another way than MalformedPage."""
    for content_type in (HTML, JSON_V1):
        try:
            page = parse(body, content_type, URL, "six")
        except MalformedPage:
            continue
        assert isinstance(page, Page)


@given(st.text(max_size=60))
def test_any_link_resolves_to_http_or_nothing(link: str) -> None:
    """Whatever a page calls a link, the outcome is a URL in plain ASCII without controls, or none."""
    url = absolute(link, URL)
    assert url is None or re.fullmatch(r"https?://[!$-;=?-\[\]_a-z~]+", url)


ranges = ("*/*", "text/*", "application/*", JSON_V1, HTML_V1, HTML, LATEST_JSON, "image/png")
marks = (";q=0", ";q=0.5", ";q=1", ",", ";", ",;,", '"', "\\", "=", " ", "q", ";level=1", "\t", "\0", "é")
fragments = st.lists(st.sampled_from([*ranges, *marks]) | st.text(max_size=4), max_size=12).map("".join)


@given(st.none() | fragments, st.none() | fragments)
def test_negotiation_never_fails(accept: str | None, wanted: str | None) -> None:
    """Any header gives one of the types offered, one that it accepts, or 406."""
    answer = negotiate(accept, wanted)
    assert answer in {JSON_V1, HTML_V1, HTML, None}
    if wanted is None:
        assert answer is None or accepts(accept, answer)
        assert answer is not None or not any(accepts(accept, offer) for offer in (JSON_V1, HTML_V1, HTML))


weights = st.sampled_from(("", ";q=0", ";q=0.3", ";q=0.7", ";q=1"))
codings = st.tuples(st.sampled_from(("gzip", "x-gzip", "zstd", "identity", "br", "*")), weights)


@given(st.none() | fragments | st.lists(codings.map("".join), max_size=6).map(", ".join))
def test_a_coding_is_one_that_was_named(accepted: str | None) -> None:
    """Whatever is sent never fails, and no body is coded in what the client did not name or called unacceptable."""
    coding = coding_of(accepted)
    assert coding in ("", "gzip", "zstd")
    named = (accepted or "").lower().replace(" ", "").split(",")
    if coding == "zstd":
        assert any(each.startswith("zstd") and each != "zstd;q=0" for each in named)
    if coding == "gzip":
        assert any(each.startswith(("gzip", "x-gzip", "*")) and not each.endswith(";q=0") for each in named)


mappings = st.dictionaries(text, text, max_size=3)
listings = st.lists(
    st.builds(
        Listed,
        text,
        text,
        mappings,
        st.none() | st.integers(0, 2**63),
        st.none() | text,
        st.none() | mappings,
    )
)


@given(listings)
def test_listings_come_back(files: list[Listed]) -> None:
    """What the store gets is what it gives."""
    assert load_listing(dump_listing(files)) == tuple(files)


def test_ten_thousand_files_survive_both_forms() -> None:
    """A large page goes through JSON and HTML whole."""
    random.seed(1)
    files = [
        json_file(
            filename=f"six-{number}.whl",
            url=f"https://files.example.org/{number}/six-{number}.whl",
            hashes={"sha256": f"{random.getrandbits(256):064x}"},
        )
        for number in range(10_000)
    ]
    page = read(json_page(files=files))
    assert [file.hashes for file in page.files] == [file["hashes"] for file in files]
    assert read_html(render(page.document, HTML)).files == page.files
    assert escape(page.files[0].url) in render(page.document, HTML).decode()
