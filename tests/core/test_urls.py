"""Addresses: tables of paths and names, and laws that hold for every URL a page could list."""

from __future__ import annotations

from urllib.parse import quote, urljoin

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from multidict import CIMultiDict

from proxy.core import urls
from proxy.core.messages import FileTarget, JsonTarget, ListTarget, Moved, NotHere, PageTarget, RawTarget, Target
from proxy.core.urls import (
    json_key,
    json_url,
    likely_projects_of,
    link_of,
    location_of,
    parse_target,
    plain_links,
    projects_of,
    usable_name,
)
from proxy.web.gate import admit

INDEXES = ("main", "extra")
DEEP = "../../../"


def parsed(path: str) -> Target:
    """The target of a raw path, with "main" as the default of two indexes."""
    return parse_target(path, INDEXES, "main")


def requested(link: str) -> Target:
    """The target of a link's place below ``/files/main/``, after the front gate has let it in."""
    path = f"/files/main/{link}"
    admit("GET", path, (1, 1), CIMultiDict(), ())
    return parsed(path)


# --- pages and lists


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/simple/", ListTarget("main", "../")),
        ("/index/main/simple/", ListTarget("main", DEEP)),
        ("/index/extra/simple/", ListTarget("extra", DEEP)),
        ("/simple", Moved("simple/")),
        ("/index/extra/simple", Moved("simple/")),
        ("/simple/six/", PageTarget("main", "six", "../../")),
        ("/index/extra/simple/six/", PageTarget("extra", "six", f"../{DEEP}")),
        ("/simple/six", Moved("six/")),
        ("/simple/Zope.Interface", Moved("zope-interface/")),
        ("/simple/Zope.Interface/", Moved("../zope-interface/")),
        ("/simple/zope%2Dinterface/", Moved("../zope-interface/")),
        ("/index/extra/simple/Zope__Interface/", Moved("../zope-interface/")),
        ("/simple/a/", PageTarget("main", "a", "../../")),
        ("/simple/7z/", PageTarget("main", "7z", "../../")),
    ],
)
def test_pages(path: str, expected: Target) -> None:
    """Lists, pages, and the one spelling that others are sent to."""
    assert parsed(path) == expected


@pytest.mark.parametrize(
    "name",
    [
        "-six",
        "six-",
        "_",
        ".",
        "..",
        "%2e%2e",
        "six%20",
        "six%0A",
        "six%2F..",
        "s%00x",
        "s\u0131x",
        "%C5%BFix",
        "%E2%84%AAv",
    ],
)
@pytest.mark.parametrize("form", ["/simple/{}", "/simple/{}/", "/index/extra/simple/{}/"])
def test_no_project_names(name: str, form: str) -> None:
    """What PEP 508 does not call a name is 404, in every place where a name may stand."""
    assert parsed(form.format(name)) == NotHere("not a project name")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/unknown",
        "/simple/six/x",
        "/simple/six//",
        "/SIMPLE/",
        "simple/",
        "//simple/",
        "/index/",
        "/index/other/simple/",
        "/index/main/",
        "/index/main/json/six/",
        "/files",
        "/files/main",
        "/files/main/",
        "/files/main/example.com",
        "/files/main/example.com/",
        "/files/main/example.com/a/",
        "/files/main//a.whl",
        "/files/other/example.com/a.whl",
    ],
)
def test_unknown_paths(path: str) -> None:
    """Nothing else is served."""
    assert parsed(path) == NotHere("no such path")


@given(st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,20}[A-Za-z0-9])?", fullmatch=True), st.booleans(), st.booleans())
def test_every_name_leads_to_one_page(name: str, slash: bool, deep: bool) -> None:
    """A relative redirect from any spelling ends at the page, below a sub-path too, and there it ends."""
    below = "/index/extra/simple/" if deep else "/simple/"
    path = f"{below}{name}{'/' if slash else ''}"
    target = parsed(path)
    if isinstance(target, Moved):
        path = urljoin(f"http://example.com/mirror{path}", target.location).removeprefix("http://example.com/mirror")
        target = parsed(path)
    assert isinstance(target, PageTarget)
    assert path == f"{below}{target.project}/"
    assert target.project == urls.normalise_project(name) == urls.normalise_project(target.project)
    # The way up leads to the root, from where `files/` is found.
    assert urljoin(f"http://example.com/mirror{path}", f"{target.up}files/") == "http://example.com/mirror/files/"


# --- the JSON API


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/pypi/six/json", JsonTarget("main", "six")),
        ("/pypi/six/1.17.0/json", JsonTarget("main", "six", "1.17.0")),
        ("/index/extra/pypi/six/json", JsonTarget("extra", "six")),
        ("/index/main/pypi/six/1!2.0+cpu/json", JsonTarget("main", "six", "1!2.0+cpu")),
        # What pip-tools asks for an index URL that ends in `/simple` or `/simple/`, and what it once asked.
        ("/six/json", JsonTarget("main", "six")),
        ("/index/extra/six/json", JsonTarget("extra", "six")),
        ("/simple/pypi/six/json", JsonTarget("main", "six")),
        ("/index/extra/simple/pypi/six/json", JsonTarget("extra", "six")),
        # Projects whose names are words of ours.
        ("/pypi/json", JsonTarget("main", "pypi")),
        ("/pypi/pypi/json", JsonTarget("main", "pypi")),
        ("/pypi/json/json", JsonTarget("main", "json")),
        ("/index/json", JsonTarget("main", "index")),
        ("/files/json", JsonTarget("main", "files")),
        ("/index/extra/pypi/json", JsonTarget("extra", "pypi")),
        ("/simple/json", Moved("json/")),
        ("/simple/json/", PageTarget("main", "json", "../../")),
        # A version may be spelled in any way, and keeps its spelling.
        ("/pypi/six/1.0-RC1/json", JsonTarget("main", "six", "1.0-RC1")),
        ("/pypi/six/1%2E0%2bcpu/json", JsonTarget("main", "six", "1.0+cpu")),
        (f"/pypi/six/{'1' * 100}/json", JsonTarget("main", "six", "1" * 100)),
        # A name may not.
        ("/pypi/Zope.Interface/json", Moved("../zope-interface/json")),
        ("/pypi/zope%2Dinterface/json", Moved("../zope-interface/json")),
        ("/index/extra/pypi/Six/1.0%2bcpu/json", Moved("../../six/1.0+cpu/json")),
        ("/Zope.Interface/json", Moved("../zope-interface/json")),
        ("/index/extra/Six/json", Moved("../six/json")),
        ("/simple/pypi/Six/json", Moved("../six/json")),
    ],
)
def test_json_api(path: str, expected: Target) -> None:
    """Documents of the default index and of any other, of a project and of a version."""
    assert parsed(path) == expected


@pytest.mark.parametrize(
    ("path", "because"),
    [
        ("/pypi/-six/json", "not a project name"),
        ("/pypi/%2e%2e/json", "not a project name"),
        ("/pypi//json", "not a project name"),
        ("/-six/json", "not a project name"),
        ("/pypi/s\u0131x/1.0/json", "not a project name"),
        ("/pypi/six//json", "not a version"),
        ("/pypi/six/../json", "not a version"),
        ("/pypi/six/-1/json", "not a version"),
        ("/pypi/six/1%2F2/json", "not a version"),
        ("/pypi/six/1%0A/json", "not a version"),
        ("/pypi/six/1%C2%B2/json", "not a version"),
        ("/pypi/Six/1 2/json", "not a version"),
        (f"/pypi/six/{'1' * 101}/json", "not a version"),
        ("/pypi/six", "no such path"),
        ("/pypi/six/", "no such path"),
        ("/pypi/six/json/", "no such path"),
        ("/pypi/six/1.0/2.0/json", "no such path"),
        ("/index/other/pypi/six/json", "no such path"),
        ("/index/other/six/json", "no such path"),
        ("/index/main/six/1.0/json", "no such path"),
        ("/six/1.0/json", "no such path"),
    ],
)
def test_nothing_of_the_json_api(path: str, because: str) -> None:
    """What could be no project and no version is 404 without a question."""
    assert parsed(path) == NotHere(because)


@pytest.mark.parametrize("path", ["/pypi/{}/json", "/pypi/{}/1.0%2b1/json", "/index/extra/{}/json"])
def test_every_name_leads_to_one_document(path: str) -> None:
    """Relative redirects end at the document, below a sub-path too."""
    target = parsed(path.format("Zope__Interface"))
    assert isinstance(target, Moved)
    there = urljoin(f"http://example.com/mirror{path.format('Zope__Interface')}", target.location)
    assert parsed(there.removeprefix("http://example.com/mirror")) == parsed(path.format("zope-interface"))


@pytest.mark.parametrize(
    ("index", "target", "expected"),
    [
        ("https://example.com/simple/", JsonTarget("main", "six"), "https://example.com/pypi/six/json"),
        ("https://example.com/a/simple/", JsonTarget("main", "six", "1.0"), "https://example.com/a/pypi/six/1.0/json"),
        ("http://example.com/simple/", JsonTarget("main", "six", "1!1+a"), "http://example.com/pypi/six/1!1+a/json"),
        ("https://example.com/whl/", JsonTarget("main", "six"), None),
        ("https://example.com/notsimple/", JsonTarget("main", "six"), None),
        ("https://example.com/", JsonTarget("main", "six"), None),
    ],
)
def test_where_the_json_api_is(index: str, target: JsonTarget, expected: str | None) -> None:
    """Beside the Simple API, or nowhere."""
    assert json_url(index, target) == expected


def test_json_keys() -> None:
    """A document of its own for every index, project and version."""
    targets = [JsonTarget(index, name, each) for index in "ab" for name in "cd" for each in (None, "1", "1.0")]
    assert len({json_key(target) for target in targets}) == len(targets)


# --- files


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/files/main/example.com/p/a-1.whl", FileTarget("main", "example.com/p/a-1.whl", False)),
        ("/files/extra/example.com/a-1.whl", FileTarget("extra", "example.com/a-1.whl", False)),
        ("/files/main/example.com/a-1.whl.metadata", FileTarget("main", "example.com/a-1.whl", True)),
        ("/files/main/example.com/a-1.whl%2Emetadata", FileTarget("main", "example.com/a-1.whl", True)),
        ("/files/main/example.com%3A8080/a.whl", FileTarget("main", "example.com:8080/a.whl", False)),
        ("/files/main/EXAMPLE.com/A.whl", FileTarget("main", "example.com/A.whl", False)),
        ("/files/main/%5B::1%5D:8080/a.whl", FileTarget("main", "[::1]:8080/a.whl", False)),
        ("/files/main/example.com/a%2B1.whl", FileTarget("main", "example.com/a%2B1.whl", False)),
        ("/files/main/example.com/a+1.whl", FileTarget("main", "example.com/a%2B1.whl", False)),
        ("/files/main/example.com/%61%7e.whl", FileTarget("main", "example.com/a~.whl", False)),
        ("/files/main/example.com:/a.whl", FileTarget("main", "example.com/a.whl", False)),
        ("/files/main/example.com/%ff.whl", FileTarget("main", "example.com/%FF.whl", False)),
    ],
)
def test_files(path: str, expected: Target) -> None:
    """Spellings that RFC 3986 §6.2.2 (and pip) takes for one another are one location."""
    assert parsed(path) == expected


@pytest.mark.parametrize(
    "name", [".hidden", ".metadata", "a%0Ab.whl", "a%7Fb.whl", "a%E2%80%A8b.whl", "a%5Cb", "a" * 256]
)
def test_no_file_names(name: str) -> None:
    """A name that no file may have is not served."""
    assert parsed(f"/files/main/example.com/{name}") == NotHere("not a file name")


@pytest.mark.parametrize(
    ("name", "usable"),
    [
        ("six-1.16.0-py2.py3-none-any.whl", True),
        ("a" * 255, True),
        ("a" * 256, False),
        ("ä" * 128, False),
        ("naïve 1+2.tar.gz", True),
        ("", False),
        (".", False),
        ("a/b", False),
        ("a\\b", False),
        ("a\0b", False),
        ("a\u202eb", False),
        ("a\ud800b", False),
    ],
)
def test_usable_names(name: str, usable: bool) -> None:
    """What the store may write to disk; its length counts in bytes."""
    assert usable_name(name) is usable


@pytest.mark.parametrize(
    ("url", "link"),
    [
        ("https://example.com/p/a-1.whl", "example.com/p/a-1.whl"),
        ("HTTPS://Example.COM:443/a.whl", "example.com/a.whl"),
        ("http://example.com:80/a.whl", "example.com/a.whl"),
        ("http://example.com:/a.whl", "example.com/a.whl"),
        ("http://example.com:443/a.whl", "example.com:443/a.whl"),
        ("http://[2001:DB8::1]:8080/a.whl", "%5B2001:db8::1%5D:8080/a.whl"),
        ("https://example.com/a.whl?token=1#sha256=0", "example.com/a.whl"),
        ("https://example.com/a+1.whl", "example.com/a+1.whl"),
        ("https://example.com/a%2b1.whl", "example.com/a%2b1.whl"),
        ("https://example.com/a b/ä.whl", "example.com/a%20b/%C3%A4.whl"),
        ("https://example.com/a%2Fb/c%5cd.whl", "example.com/a%252Fb/c%255cd.whl"),
        ("https://example.com/a\\b\0.whl", "example.com/a%255Cb%2500.whl"),
        ("https://example.com/a//b.whl", "example.com/a/%252F/b.whl"),
        ("https://example.com//b.whl", "example.com/%252F/b.whl"),
        ("https://example.com/100%.whl", "example.com/100%.whl"),
        ('https://example.com/"<a>".whl', "example.com/%22%3Ca%3E%22.whl"),
    ],
)
def test_links(url: str, link: str) -> None:
    """A link is the URL's own spelling, with only that changed which the front gate would refuse."""
    assert link_of(url) == link


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a.whl",
        "/a.whl",
        "//example.com/a.whl",
        "ftp://example.com/a.whl",
        "file:///a.whl",
        "javascript:alert(1)",
        "data:,a.whl",
        "https:///a.whl",
        "https://:80/a.whl",
        "https://user@example.com/a.whl",
        "https://user:secret@example.com/a.whl",
        "https://@example.com/a.whl",
        "https://example.com",
        "https://example.com/",
        "https://example.com/a/",
        "https://example.com/?a.whl",
        "https://example.com/./a.whl",
        "https://example.com/b/../a.whl",
        "https://example.com/b/%2e%2E/a.whl",
        "https://example.com/b/.\t./a.whl",
        "https://example.com/a.whl/..",
        "https://example.com:port/a.whl",
        "https://example.com:99999/a.whl",
        "https://example.com:-1/a.whl",
        "https://[::1/a.whl",
        "https://::1]/a.whl",
        "https://[fe80::1%25eth0]/a.whl",
        "https://exa\\mple.com/a.whl",
        "https://exa%2Fmple.com/a.whl",
        "https://exa%5cmple.com/a.whl",
        "https://exa mple.com/a.whl",
        "https://ex%61mple.com/a.whl",
        "https://example\u2100.com/a.whl",
        "https://exämple.com/a.whl",
        "https://example.com[::1]/a.whl",
        "https://[::1]example.com/a.whl",
        "https://example.com/\ud800.whl",
    ],
)
def test_urls_without_a_place(url: str) -> None:
    """Userinfo, no host or no plain one, no file, dots: such a URL has no link and no location."""
    for function in (link_of, location_of):
        with pytest.raises(ValueError, match=r"."):
            function(url)


HOSTS = st.sampled_from(
    [
        "example.com",
        "FILES.Example.org.",
        "a",
        "a_b.example.com",
        "127.0.0.1",
        "[::1]",
        "[2001:DB8::A]",
        "xn--a.example",
    ]
)
PORTS = st.sampled_from(["", ":", ":80", ":443", ":0443", ":8080", ":65535"])
CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="/?#")
RAW = st.text(CHARACTERS | st.sampled_from("%\\;:@&=+$,~.ä \"'<>[]"), min_size=1, max_size=8)
ESCAPED = st.binary(min_size=1, max_size=6).map(lambda data: "".join(f"%{byte:02x}" for byte in data))
SEGMENTS = st.lists(RAW | ESCAPED | st.just("%2F"), min_size=1, max_size=3).map("".join) | st.just("")
NAMES = st.text("ABab19._-+!~% äß€", min_size=1, max_size=20).map(lambda name: f"a{name}z.whl")


@given(
    scheme=st.sampled_from(["http", "https", "HTTPS"]),
    host=HOSTS,
    port=PORTS,
    path=st.lists(SEGMENTS, max_size=4),
    name=NAMES,
)
def test_a_link_comes_back_as_its_location(scheme: str, host: str, port: str, path: list[str], name: str) -> None:
    """Any http URL of a file, but for dot segments, has a link that the gate lets in and that means the URL."""
    url = f"{scheme}://{host}{port}/" + "/".join([*path, quote(name)])
    try:
        location = location_of(url)
    except ValueError:
        # What is left between the slashes after urlsplit has dropped tabs and line ends.
        assert {".", ".."} & {urls.file_name(segment.translate({9: "", 10: "", 13: ""})) for segment in path}
        return
    assert requested(link_of(url)) == FileTarget("main", location, False)
    assert requested(f"{link_of(url)}.metadata") == FileTarget("main", location, True)
    assert urls.file_name(location) == name


@given(st.sampled_from(["http://", "https://"]), st.text("aB7.-_~/:%@", min_size=3, max_size=20))
@example("http://", "a/b")
@example("http://", "a/.b")
@example("http://", "a/b/../c")
@example("http://", "a.-/b~")
def test_the_short_way_is_the_long_way(scheme: str, rest: str) -> None:
    """URLs in plain spelling take a way around the parser, which must not tell anything else than it does."""
    # An empty fragment changes nothing and is not plain.
    try:
        expected = link_of(f"{scheme}{rest}#"), location_of(f"{scheme}{rest}#")
    except ValueError:
        for function in (link_of, location_of):
            with pytest.raises(ValueError, match=r"."):
                function(f"{scheme}{rest}")
        return
    assert (link_of(f"{scheme}{rest}"), location_of(f"{scheme}{rest}")) == expected


URL_LIKE = st.text(CHARACTERS | st.sampled_from("/?#:@[]%\\.;\t\n\ud800"), max_size=30)


HOSTS, PATHS = st.sampled_from(["files.example.com", "h"]), st.text("ab.-_~/", max_size=9)
PLAIN = st.builds("https://{}/{}".format, HOSTS, PATHS)
ORIGINS = st.sampled_from(["https://h/", "http://h/", "https://h:8080/", ""])
ANY = st.builds("{}{}".format, ORIGINS, st.text("ab./:%\n ?#é"))


@given(urls=st.lists(PLAIN, max_size=4) | st.lists(PLAIN | ANY, max_size=4))
@example(urls=["https://h/https://h/x"])
@example(urls=["https://h/a", "https://h/", "https://h/b"])
@example(urls=["https://h/a\nhttps://h/b"])
@example(urls=["https://h/a", "https://h/b/"])
@example(urls=["https://h:8080/a", "https://h:8080/b", "https://h:8080/b"])
def test_all_links_at_once_are_those_one_by_one(urls: list[str]) -> None:
    """Or it is left to them: then for all."""
    found = plain_links(urls)
    assert set(found) in (set(), set(urls))
    assert all(link == link_of(url) == location_of(url) for url, link in found.items())


def test_most_pages_are_looked_at_at_once() -> None:
    """Those of one host, with and without a port."""
    for origin in ("https://files.example.com", "http://127.0.0.1:8080"):
        assert len(plain_links([f"{origin}/packages/{name}-1.0~a.tar.gz" for name in ("a", "b_b", "c-c")])) == 3


@given(st.sampled_from(["http://", "https://", "http:", "", "HTTP://h/", "http://h:", "http://[", "//"]), URL_LIKE)
@example("http://h/", "\\")
@example("http://h/", "%5c\n%2f")
@example("http://", "a\\b/c")
@example("http://h:", "1_0/a")
def test_hostile_urls_raise_nothing_but_value_error(start: str, rest: str) -> None:
    """Whatever a page calls a URL is refused, or is a link the gate lets in and that means one location."""
    try:
        location, link = location_of(start + rest), link_of(start + rest)
    except ValueError:
        return
    target = requested(link)
    if isinstance(target, FileTarget):
        assert target.location + (".metadata" if target.metadata else "") == location
    else:
        # Nothing that may lie on disk under this name; the file is 404.
        assert not usable_name(urls.file_name(location.removesuffix(".metadata")))


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_every_path_has_a_target(path: str) -> None:
    """No path makes the parser raise, and what it says of a file is normalised already."""
    for raw in (path, f"/{path}", f"/simple/{path}", f"/files/main/{path}", f"/files/main/example.com/{path}"):
        target = parsed(raw)
        if isinstance(target, FileTarget):
            assert parsed(f"/files/main/{target.location}") == FileTarget(
                "main", target.location.removesuffix(".metadata"), target.location.endswith(".metadata")
            )


@given(NAMES, st.data())
def test_equivalent_spellings_are_one_location(name: str, data: st.DataObject) -> None:
    """Any byte escaped or not, in either case: RFC 3986 §6.2.2.1 and §6.2.2.2, and sub-delimiters as well."""

    def spelling() -> str:
        said = []
        for byte in name.encode():
            form = data.draw(st.sampled_from(["plain", "%02x", "%02X"]))
            plain = form == "plain" and chr(byte) != "%" and 0x20 < byte < 0x7F
            said.append(chr(byte) if plain else f"%{byte:02{'x' if form == '%02x' else 'X'}}")
        return "".join(said)

    one, other = (f"https://Example.com:443/p/{spelling()}" for _ in range(2))
    assert location_of(one) == location_of(other) == location_of(one.replace("Example.com:443", "example.com"))
    assert requested(link_of(other)) == FileTarget("main", location_of(one), False)


# --- names of files, keys


@pytest.mark.parametrize(
    ("filename", "projects"),
    [
        ("six-1.16.0-py2.py3-none-any.whl", ("six",)),
        ("Zope_Interface-5.0-cp311-cp311-linux_x86_64.WHL", ("zope-interface",)),
        ("six-1.16.0.tar.gz", ("six",)),
        ("zope.interface-5.0.zip", ("zope-interface",)),
        ("a-b-1.0.tar.gz", ("a-b", "a")),
        ("python-3-parser-1.0.tgz", ("python-3-parser", "python", "python-3")),
        ("a-b.tar.bz2", ("a",)),
        ("six-1.0-py2.7.egg", ("six", "six-1-0")),
        ("six-1.0.win32-py2.7.exe", ("six", "six-1-0-win32")),
        (
            "-".join("abcdefghijkl") + ".zip",
            tuple("-".join("abcdefghijk"[:length]) for length in range(11, 3, -1)),
        ),
        ("six.whl", ()),
        ("six.tar.gz", ()),
        ("-1.0.tar.gz", ()),
        ("-1.0-py3-none-any.whl", ()),
        ("ä-1.0-py3-none-any.whl", ()),
        ("six-1.0.html", ()),
        ("six", ()),
        ("", ()),
    ],
)
def test_projects_of(filename: str, projects: tuple[str, ...]) -> None:
    """A wheel has one project; an old sdist name has several, the likeliest first, and never very many."""
    assert projects_of(filename) == projects


@pytest.mark.parametrize(
    ("filename", "projects"),
    [
        ("six-1.16.0-py2.py3-none-any.whl", ("six",)),
        ("a-b-1.0.tar.gz", ("a-b",)),
        ("python-3-parser-1.0.tgz", ("python-3-parser", "python")),
        ("a-1-2-3-4.zip", ("a-1-2-3", "a-1-2")),
        ("a-b-c.tar.bz2", ("a-b",)),
        ("six.whl", ()),
        ("six-1.0.html", ()),
    ],
)
def test_likely_projects_of(filename: str, projects: tuple[str, ...]) -> None:
    """An invented name costs at most two looks at the upstream; a real one always gets one."""
    assert likely_projects_of(filename) == projects


@given(st.text("a1-._A", max_size=20).map(lambda name: f"{name}.tar.gz"))
def test_likely_projects_are_projects(filename: str) -> None:
    """What is worth a look is among what is known to be possible, and there is one if there is any."""
    possible, likely = projects_of(filename), likely_projects_of(filename)
    assert set(likely) <= set(possible) or len(possible) == 8
    assert bool(likely) == bool(possible)
    assert len(likely) <= 2


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://example.com/a%3F.whl", "https://example.com/a%3F.whl"),
        ("https://example.com/a.whl?token=1", "https://example.com/a.whl"),
        ("https://example.com/a.whl?token=1?b#c", "https://example.com/a.whl"),
        ("https://example.com/a.whl#sha256=0?token=1", "https://example.com/a.whl"),
    ],
)
def test_without_query(url: str, kept: str) -> None:
    """A signature is a secret, wherever it hides."""
    assert urls.without_query(url) == kept


def test_keys_differ() -> None:
    """No two things share a store key; a listed hash is a part of a file's."""
    file, metadata = FileTarget("main", "example.com/a.whl", False), FileTarget("main", "example.com/a.whl", True)
    keys = [
        urls.page_key("main", "six"),
        urls.page_key("extra", "six"),
        urls.listing_key("main", "six"),
        urls.list_key("main"),
        *(urls.file_key(each, pin) for each in (file, metadata) for pin in ("", "sha256=0", "sha256=1")),
    ]
    assert len(set(keys)) == len(keys)
    assert urls.tag_of("main", "six") == "main/six"


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/raw/m/", RawTarget("m", "")),
        ("/raw/m/a%20b/c", RawTarget("m", "a%20b/c")),
        ("/raw/m/simple/", RawTarget("m", "simple/")),
        ("/raw/m", Moved("m/")),
        ("/raw/main/a", NotHere("no such path")),
    ],
)
def test_mounts_are_below_raw(path: str, target: Target) -> None:
    """One to one, as it is spelled; an index is no mount."""
    assert parse_target(path, INDEXES, "main", {"m"}) == target
