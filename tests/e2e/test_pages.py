"""Index pages as clients see them: formats, links, codings, validators."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urljoin

import pytest

from tests.harness.behaviours import Answer
from tests.harness.fetch import Fetched, fetch
from tests.harness.index import JSON_V1, Index, Links
from tests.harness.packages import Distribution, sdist, wheel
from tests.harness.upstream import Upstream
from tests.harness.world import AS_JSON, HTML, World, fresh_name, world

HTML_V1 = "application/vnd.pypi.simple.v1+html"
LATEST = "application/vnd.pypi.simple.latest"
PIP = f"{JSON_V1}, {HTML_V1}; q=0.1, text/html; q=0.01"
HTML_UTF8 = "text/html; charset=utf-8"
FORMATS = {JSON_V1: JSON_V1, HTML_V1: HTML_V1, HTML: HTML_UTF8}
CODINGS = ("zstd", "gzip", "identity")


@pytest.fixture(scope="module")
def second() -> Upstream:
    """The upstream of the index "second"."""
    return Upstream()


@pytest.fixture(scope="module")
def odd() -> Upstream:
    """The upstream of the index "odd", whose manners tests change."""
    return Upstream()


@pytest.fixture(scope="module")
def here(lane: None, tmp_path_factory: pytest.TempPathFactory, second: Upstream, odd: Upstream) -> Iterator[World]:
    """One proxy over all of them."""
    with world(
        tmp_path_factory.mktemp("pages"),
        others={"second": second, "odd": odd},
    ) as made:
        yield made


@pytest.fixture(scope="module")
def six(here: World) -> Distribution:
    """A project that tests only look at."""
    made = wheel("six", requires_python=">=3 & <4")
    here.publish(made, wheel("six", "2.0", yanked='bad <b>"quote"</b>'), sdist("six", "3.0"))
    return made


# --- formats


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (JSON_V1, JSON_V1),
        (HTML_V1, HTML_V1),
        (HTML, HTML),
        (f"{LATEST}+json", JSON_V1),
        (f"{LATEST}+html", HTML_V1),
        (PIP, JSON_V1),
        (f"{JSON_V1}, {HTML_V1};q=0.2, text/html;q=0.01", JSON_V1),
        (f"{JSON_V1}, */*;q=0.1", JSON_V1),
        (f"{JSON_V1};q=0.1, text/html;q=0.5", HTML),
        (f"{JSON_V1};q=0.5, {HTML_V1};q=0.7", HTML_V1),
        (f"{JSON_V1};q=0, */*", HTML),
        ("*/*", HTML),
        ("text/*", HTML),
        (None, HTML),
        ("", HTML),
    ],
)
def test_formats(here: World, six: Distribution, accept: str | None, media_type: str) -> None:
    """PEP 691 and RFC 9110 §12.5.1: the type the client weighs most, with headers that keep browsers tame."""
    got = here.get("/simple/six/", {} if accept is None else {"Accept": accept})
    assert (got.status, got.headers["content-type"]) == (200, FORMATS[media_type])
    assert got.headers["vary"] == "Accept, Accept-Encoding"
    assert got.headers["x-content-type-options"] == "nosniff"
    assert (got.headers.get("content-security-policy") == "default-src 'none'") is (media_type == HTML)
    assert got.body.startswith(b"{" if media_type == JSON_V1 else b"<!DOCTYPE html>")
    assert six.filename.encode() in got.body


@pytest.mark.parametrize(
    ("query", "accept", "media_type"),
    [
        (quote(JSON_V1), HTML, JSON_V1),
        (quote(JSON_V1, safe=""), HTML, JSON_V1),
        (JSON_V1, HTML, JSON_V1),
        (quote(HTML_V1), JSON_V1, HTML_V1),
        (HTML, JSON_V1, HTML),
        (quote(f"{LATEST}+json"), HTML, JSON_V1),
        (quote("application/vnd.pypi.simple.v2+json"), JSON_V1, None),
        ("json", JSON_V1, None),
        ("", JSON_V1, None),
    ],
)
def test_format_in_the_query(
    here: World, six: Distribution, query: str, accept: str, media_type: str | None
) -> None:
    """``?format=`` wins over Accept; what is not offered is 406."""
    got = here.get(f"/simple/six/?format={query}", {"Accept": accept})
    assert got.status == (406 if media_type is None else 200)
    if media_type is not None:
        assert got.headers["content-type"] == FORMATS[media_type]


@pytest.mark.parametrize(
    "accept", ["image/png", "application/json", f"{JSON_V1};q=0", "text/plain", f"{LATEST}+xml", "*/*;q=0"]
)
def test_nothing_acceptable(here: World, six: Distribution, accept: str) -> None:
    """406, which says what could be had and asks no upstream."""
    before = len(here.page_requests("six"))
    got = here.get("/simple/six/", {"Accept": accept})
    assert got.status == 406
    assert "JSON v1" in json.loads(got.body)["detail"]
    assert len(here.page_requests("six")) == before


def test_what_is_not_understood_is_carried(here: World) -> None:
    """Rule 9: unknown keys at every level, project-status, provenance and api-version come out as they went in."""
    name = fresh_name()
    made = wheel(name)
    document: dict[str, Any] = {
        "meta": {"api-version": "1.4", "_last-serial": 7, "x-meta": {"deep": [1, None]}},
        "name": name,
        "project-status": {"status": "archived", "reason": "moved"},
        "alternate-locations": ["https://example.org/simple/"],
        "versions": ["1.0"],
        "_private": [1, 2.5, {"a": None}],
        "files": [
            {
                "filename": made.filename,
                "url": f"{here.upstream.files_url}/packages/{name}/{made.filename}",
                "hashes": {"sha256": made.sha256, "blake2b": "ab"},
                "size": made.size,
                "upload-time": "2026-01-02T03:04:05.678901Z",
                "provenance": "https://example.org/provenance",
                "gpg-sig": False,
                "yanked": "because",
                "variant": {"cuda": "13"},
                "_odd": True,
            }
        ],
    }
    here.script(name, Answer(status=200, body=json.dumps(document).encode(), headers={"Content-Type": JSON_V1}))
    got = json.loads(here.page(name).body)
    url = got["files"][0].pop("url")
    document["files"][0].pop("url")
    assert got == document
    assert url == f"../../files/test/{here.upstream.files_url[7:]}/packages/{name}/{made.filename}"


@pytest.mark.parametrize(("said", "shown"), [("1.0", "1.0"), ("1.1", "1.1"), ("1.4", "1.4"), ("1.5", "1.4")])
def test_api_version(here: World, said: str, shown: str) -> None:
    """JSON says what the upstream said; HTML is frozen at 1.4 (PEP 833)."""
    name = fresh_name()
    document = {"meta": {"api-version": said}, "name": name, "files": [], "versions": []}
    here.script(name, Answer(status=200, body=json.dumps(document).encode(), headers={"Content-Type": JSON_V1}))
    assert json.loads(here.page(name).body)["meta"] == {"api-version": said}
    assert f'content="{shown}"'.encode() in here.page(name, {"Accept": HTML}).body


def test_names_from_packages_are_escaped(here: World, six: Distribution) -> None:
    """A reason for yanking is text, never markup; what HTML can say of a file is there."""
    text = here.page("six", {"Accept": HTML}).body.decode()
    assert "<b>" not in text
    assert "bad &lt;b&gt;" in text
    assert f"#sha256={six.sha256}" in text
    assert f'data-core-metadata="sha256={six.metadata_sha256}"' in text
    assert re.search(r'data-requires-python="&gt;=3 &amp; &lt;4"', text)


# --- links


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("/simple", "simple/"),
        ("/simple/Six/", "../six/"),
        ("/simple/S_I.x/", "../s-i-x/"),
        ("/simple/six", "six/"),
        ("/simple/S..IX", "s-ix/"),
        ("/index/test/simple", "simple/"),
        ("/index/second/simple/SIX/", "../six/"),
        ("/index/second/simple/six", "six/"),
        ("/simple/%73ix/", "../six/"),
        (f"/simple/Six/?format={quote(JSON_V1, safe='')}", f"../six/?format={quote(JSON_V1, safe='')}"),
        ("/simple/six?format=text/html&token=secret", "six/?format=text%2Fhtml"),
        ("/simple/six?token=secret", "six/"),
    ],
)
def test_one_spelling_for_every_page(here: World, path: str, location: str) -> None:
    """Unnormalised names and missing slashes get a relative redirect, from us alone."""
    before = len(here.upstream.log)
    got = here.get(path)
    assert (got.status, got.headers["location"], got.body) == (301, location, b"")
    assert len(here.upstream.log) == before


def links_of(page: Fetched) -> dict[str, str]:
    """Links by file name, without fragments, of a page in any format."""
    if page.headers["content-type"] == JSON_V1:
        return {file["filename"]: file["url"] for file in json.loads(page.body)["files"]}
    anchors = re.findall(r'<a href="([^"#]*)[^>]*>([^<]*)</a>', page.body.decode())
    return {name: link for link, name in anchors}


@pytest.mark.parametrize("accept", FORMATS)
@pytest.mark.parametrize(
    ("path", "up"), [("/simple/six/", "../../"), ("/index/test/simple/six/", "../../../../")]
)
def test_links_are_relative_and_lead_to_files(
    here: World, six: Distribution, path: str, up: str, accept: str
) -> None:
    """Host, TLS and a front proxy's sub-path do not matter: every link resolves to the file itself."""
    page = here.get(path, {"Accept": accept})
    links = links_of(page)
    assert set(links) == {each.filename for each in here.upstream.index.files_of("six")}
    assert all(link.startswith(f"{up}files/test/127.0.0.1:") for link in links.values())
    for each in here.upstream.index.files_of("six"):
        assert fetch(urljoin(f"{here.proxy.url}{path}", links[each.filename])).sha256 == each.sha256
    metadata = urljoin(f"{here.proxy.url}{path}", f"{links[six.filename]}.metadata")
    assert fetch(metadata).body == six.metadata


def test_indexes_are_never_mixed(here: World, second: Upstream) -> None:
    """The same project in two indexes: each page lists its own, each upstream is asked for its own."""
    name = fresh_name("shared")
    ours, theirs = wheel(name, "1.0"), wheel(name, "2.0")
    here.publish(ours)
    second.index.add(theirs)
    for path, file, index in ((f"/simple/{name}/", ours, "test"), (f"/index/second/simple/{name}/", theirs, "second")):
        links = links_of(here.get(path, AS_JSON))
        assert list(links) == [file.filename]
        assert f"files/{index}/" in links[file.filename]
    assert here.get(f"/files/test/{second.location(theirs)}").status == 404
    assert here.get(f"/files/second/{here.upstream.location(ours)}").status == 404
    assert here.file_requests(ours) == []
    assert second.asked("/packages/") == []


def test_a_project_missing_in_the_default_index_is_not_looked_for_elsewhere(here: World, second: Upstream) -> None:
    """Dependency confusion: only the index that was asked is asked."""
    name = fresh_name("private")
    second.index.add(wheel(name))
    assert here.page(name).status == 404
    assert second.count("GET", f"/simple/{name}/") == 0


# --- codings and validators


def representations(here: World, project: str) -> dict[tuple[str, str], Fetched]:
    """The page in each format and coding."""
    return {
        (accept, coding): here.page(project, {"Accept": accept, "Accept-Encoding": coding})
        for accept in FORMATS
        for coding in CODINGS
    }


def test_codings_and_etags(here: World, six: Distribution) -> None:
    """Coded or not, it is the same page; every representation has a strong ETag of its own, the same each time."""
    first, again = representations(here, "six"), representations(here, "six")
    tags = {key: page.headers["etag"] for key, page in first.items()}
    assert len(set(tags.values())) == len(tags)
    assert all(re.fullmatch(r'"[!#-~]+"', tag) for tag in tags.values())
    for key, page in first.items():
        assert (page.body, page.headers["etag"]) == (again[key].body, again[key].headers["etag"])
        assert int(page.headers["content-length"]) == len(page.body)
    for accept in FORMATS:
        plain = first[accept, "identity"]
        assert "content-encoding" not in plain.headers
        for coding in ("gzip", "zstd"):
            packed = first[accept, coding]
            assert packed.headers["content-encoding"] == coding
            assert packed.decoded == plain.body


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip, deflate", "gzip"),
        ("gzip, deflate, zstd", "zstd"),
        ("gzip, br, zstd, deflate", "zstd"),
        ("zstd;q=0.5, gzip", "gzip"),
        ("*", "gzip"),
        ("identity", None),
        ("gzip;q=0", None),
        ("deflate, br", None),
        ("gzip;q=0.5, identity", None),
    ],
)
def test_coding_wanted(here: World, six: Distribution, accepted: str, coding: str | None) -> None:
    """RFC 9110 §12.5.3: zstd or gzip for whoever takes it, plain bytes for the others."""
    assert here.page("six", {"Accept-Encoding": accepted}).headers.get("content-encoding") == coding


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ("{etag}", 304),
        ("W/{etag}", 304),
        ('"other", {etag}', 304),
        ("*", 304),
        ('"other"', 200),
        ("{other}", 200),
        ("garbage", 200),
    ],
)
@pytest.mark.parametrize(("coding", "another"), [("gzip", "identity"), ("gzip", "zstd"), ("zstd", "gzip")])
def test_not_modified(
    here: World, six: Distribution, coding: str, another: str, condition: str, status: int, method: str
) -> None:
    """RFC 9110 §15.4.5: a 304 has all the headers the 200 would have had but those of the body; uv needs them."""
    whole = here.page("six", {"Accept-Encoding": coding})
    other = here.page("six", {"Accept-Encoding": another})
    told = condition.format(etag=whole.headers["etag"], other=other.headers["etag"])
    got = here.page("six", {"Accept-Encoding": coding, "If-None-Match": told}, method)
    assert got.status == status
    same = ["etag", "vary", "date", "cache-control", "x-pypi-last-serial"]
    assert [got.headers[name] for name in same] == [whole.headers[name] for name in same]
    assert "age" in got.headers
    assert got.headers["cache-status"].startswith("pip-cache-proxy; hit; ttl=")
    assert ("content-encoding" in got.headers) is (status == 200)
    if status == 304:
        assert (got.body, got.headers.get("content-length")) == (b"", None)


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("accept", FORMATS)
def test_head(here: World, six: Distribution, accept: str, coding: str) -> None:
    """RFC 9110 §9.3.2: the same header section, without the body; also on a page that was not cached."""
    name = fresh_name()
    here.publish(wheel(name))
    headers = {"Accept": accept, "Accept-Encoding": coding}
    cold, whole = here.page(name, headers, "HEAD"), here.page(name, headers)
    warm = here.page(name, headers, "HEAD")
    assert (cold.status, cold.body, warm.body) == (200, b"", b"")
    changing = ("age", "cache-status")
    for got in (cold, warm):
        assert {k: v for k, v in got.headers.items() if k not in changing} == {
            k: v for k, v in whole.headers.items() if k not in changing
        }
    assert len(here.page_requests(name)) == 1


# --- upstreams of other kinds


@pytest.mark.parametrize("links", ["absolute", "rooted", "relative", "base"])
def test_an_upstream_that_speaks_only_html(here: World, odd: Upstream, links: Links) -> None:
    """Wherever its links lead: JSON without what HTML cannot say, and files that come down."""
    name = fresh_name()
    odd.index = Index(odd.index.distributions, site_url=odd.index.site_url, files_url=odd.index.files_url)
    odd.index.html_only(links)
    made = wheel(name, requires_python=">=3.8", yanked="why not")
    odd.index.add(made)
    path = f"/index/odd/simple/{name}/"
    page = here.get(path, AS_JSON)
    document = json.loads(page.body)
    assert document["meta"]["api-version"] == "1.0"
    (listed,) = document["files"]
    assert (listed["hashes"], listed["requires-python"]) == ({"sha256": made.sha256}, ">=3.8")
    assert (listed["yanked"], listed["core-metadata"]) == ("why not", {"sha256": made.metadata_sha256})
    assert not {"size", "upload-time"} & set(listed)
    assert fetch(urljoin(f"{here.proxy.url}{path}", listed["url"])).sha256 == made.sha256
    assert fetch(urljoin(f"{here.proxy.url}{path}", f"{listed['url']}.metadata")).body == made.metadata


@pytest.mark.parametrize("formats", [("json", "html"), ("html",)])
def test_a_bare_mirror(here: World, odd: Upstream, formats: tuple[str, ...]) -> None:
    """No validators, no Cache-Control, no core-metadata: cached by our own default, and no life is invented twice."""
    name = fresh_name()
    odd.index = Index(odd.index.distributions, site_url=odd.index.site_url, files_url=odd.index.files_url)
    odd.index.bare().formats = formats
    made = wheel(name)
    odd.index.add(made)
    path = f"/index/odd/simple/{name}/"
    first, again = here.get(path, AS_JSON), here.get(path, AS_JSON)
    assert again.hit
    assert first.body == again.body
    assert again.headers["cache-control"] == "max-age=300"
    assert odd.count("GET", f"/simple/{name}/") == 1
    link = urljoin(f"{here.proxy.url}{path}", links_of(first)[made.filename])
    assert fetch(link).sha256 == made.sha256
    assert fetch(f"{link}.metadata").status == 404
    assert odd.count("GET", f"/packages/{name}/{made.filename}.metadata") == 0


def test_the_upstream_is_always_asked_in_the_same_way(here: World) -> None:
    """Nothing of a client's request but the project reaches the upstream."""
    seen = []
    for headers in ({"Accept": HTML, "Cookie": "a=canary", "Authorization": "Basic canary"}, {"X-Odd": "canary"}):
        name = fresh_name()
        here.publish(wheel(name))
        here.get(f"/simple/{name}/?format=text/html&canary=1", headers)
        (asked,) = here.page_requests(name)
        seen.append(asked.raw.replace(name.encode(), b"NAME"))
    assert seen[0] == seen[1]
    assert b"canary" not in seen[0]


# --- what is no page


@pytest.mark.parametrize(
    "path",
    [
        "/simple/-six/",
        "/simple/six-/",
        "/simple/.six/",
        "/simple/s%20ix/",
        "/simple/s%C3%A9/",
        "/simple/six+/",
        "/simple/%22six%22/",
        "/simple/six/json/",
        "/simple/six/index.html",
        "/index/nobody/simple/six/",
        "/index/test/six/",
        "/index/",
        "/files/",
        "/files/test/",
        "/files/nobody/example.com/six-1.0-py3-none-any.whl",
        "/files/test/example.com/",
        "/files/test/example.com/.hidden",
        "/pypi",
        "/favicon.ico",
        "/SIMPLE/six/",
    ],
)
def test_not_here(here: World, path: str) -> None:
    """A name PEP 508 does not allow, and any path that is not ours: 404, and no upstream is asked."""
    before = len(here.upstream.log)
    got = here.get(path)
    assert (got.status, got.headers["content-type"]) == (404, "application/problem+json")
    assert len(here.upstream.log) == before
