"""The project list, read and written piece by piece: the same whatever the pieces, and nothing but MalformedPage."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.anchors import AnchorEvents, events_of
from proxy.core.projects import STEP, VALUE_LIMIT, JsonEvents, Stepwise
from proxy.core.projectwriters import HtmlWriter, JsonWriter, Writer
from proxy.core.urls import normalise_project
from proxy.errors import MalformedPage

SITE = "https://example.com/simple/"
META: dict[str, Any] = {"api-version": "1.1"}
START = b'{"meta": {"api-version": "1.0"}, "projects": ['


def written(writer: Writer, data: bytes, cuts: Iterable[int] = ()) -> bytes:
    """What the writer makes of the data when it comes in these pieces."""
    borders = [0, *sorted(cuts), len(data)]
    pieces = [writer.feed(data[start:stop]) for start, stop in pairwise(borders)]
    return b"".join([*pieces, writer.finish()])


def as_json(data: bytes, cuts: Iterable[int] = ()) -> Any:
    """A list in JSON, read and written."""
    return json.loads(written(JsonWriter(JsonEvents()), data, cuts))


def names_in(page: str, url: str = SITE, site: str = SITE) -> list[str]:
    """The projects of a list in HTML."""
    document = json.loads(written(JsonWriter(AnchorEvents(url, site)), page.encode()))
    assert document["meta"] == {"api-version": "1.0"}
    assert list(document) == ["meta", "projects"]
    return [project["name"] for project in document["projects"]]


# --- JSON

TEXTS = st.text(max_size=8)
NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
FLAT = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = FLAT | st.lists(FLAT, max_size=2) | st.dictionaries(TEXTS, st.lists(FLAT, max_size=2), max_size=2)
PROJECTS = st.lists(
    st.builds(lambda name, more: {**more, "name": name}, TEXTS, st.dictionaries(TEXTS, VALUES, max_size=2)), max_size=5
)
FEW = settings(max_examples=60, deadline=None)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """Lists with members in any order."""
    others = draw(st.dictionaries(TEXTS.filter(lambda name: name not in ("meta", "projects")), VALUES, max_size=2))
    members = [*others.items(), ("meta", META), ("projects", draw(PROJECTS))]
    return dict(draw(st.permutations(members)))


CUTS = st.lists(st.integers(0, 3000), max_size=8)


@FEW
@given(documents(), CUTS, st.sampled_from([None, 0, 3]), st.booleans())
def test_json_key_for_key(document: dict[str, Any], cuts: list[int], indent: int | None, escaped: bool) -> None:
    """Every member and every entry comes through, in its order, however the text is spaced, escaped and cut."""
    text = json.dumps(document, indent=indent, ensure_ascii=escaped)
    got = as_json(text.encode(), cuts)
    assert got == document
    assert list(got) == list(document)


@settings(max_examples=15, deadline=None)
@given(documents(), st.lists(st.integers(0, 200_000), max_size=8), st.integers(0, 100_000))
def test_the_same_in_any_pieces(document: dict[str, Any], cuts: list[int], padding: int) -> None:
    """Also where entries lie across the borders of the steps; byte for byte."""
    document["projects"] += [{"name": f"n{number}", "": [number]} for number in range(padding // 20)]
    text = (" " * (padding % 977) + json.dumps(document)).encode()
    whole = written(JsonWriter(JsonEvents()), text)
    assert written(JsonWriter(JsonEvents()), text, cuts) == whole
    page = written(HtmlWriter(JsonEvents()), whole)
    assert written(HtmlWriter(JsonEvents()), whole, cuts) == page


@FEW
@given(documents(), st.integers(0, 10_000))
def test_json_cut_short(document: dict[str, Any], at: int) -> None:
    """No part of a list is a list."""
    text = json.dumps(document).encode()
    events = JsonEvents()
    with pytest.raises(MalformedPage):
        written(JsonWriter(events), text[: at % len(text)])
    assert not events.ended


@FEW
@given(st.binary(), CUTS)
def test_garbage(data: bytes, cuts: list[int]) -> None:
    """Nothing but MalformedPage ever comes of it."""
    for writer in (JsonWriter(JsonEvents()), HtmlWriter(JsonEvents()), JsonWriter(AnchorEvents(SITE, SITE))):
        with suppress(MalformedPage):
            written(writer, data, cuts)


@FEW
@given(documents(), st.integers(0, 10_000), st.binary(max_size=3))
def test_json_that_was_changed(document: dict[str, Any], at: int, change: bytes) -> None:
    """It is another list, or none; what Python's own reader refuses is refused here."""
    text = json.dumps(document).encode()
    at %= len(text)
    changed = text[:at] + change + text[at + 1 :]
    try:
        got = as_json(changed)
    except MalformedPage:
        return
    assert got == json.loads(changed)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "[]",
        "{}",
        '"projects"',
        '{"meta": {"api-version": "1.0"}}',
        '{"projects": []}',
        '{"meta": {"api-version": "1.0"}, "projects": {}}',
        '{"meta": {"api-version": "1.0"}, "projects": null}',
        '{"meta": {"api-version": "1.0"}, "projects": []} {}',
        '{"meta": {"api-version": "1.0"}, "projects": [],}',
        '{, "meta": {"api-version": "1.0"}, "projects": []}',
        '{"meta": {"api-version": "1.0"} "projects": []}',
        '{"meta": {"api-version": "1.0"}; "projects": []}',
        '{"meta": {"api-version": "1.0"}, "projects": [] "x": 1}',
        '{"meta": {"api-version": "2.0"}, "projects": []}',
        '{"meta": {"api-version": 1.0}, "projects": []}',
        '{"meta": {}, "projects": []}',
        '{"meta": [], "projects": []}',
        '{"meta": "1.0", "projects": []}',
        '{"meta": {"api-version": "1.0"}, "meta": {"api-version": "1.0"}, "projects": []}',
        '{"meta": {"api-version": "1.0"}, "projects": [], "projects": []}',
        '{"meta": {"api-version": "1.0"}, "projects": [], "x": tru}',
        '{"meta": {"api-version": "1.0"}, "projects": [], "x": }',
        '{"meta": {"api-version": "1.0"}, "projects": [], "x": [}}',
        '{"meta": {"api-version": "1.0"}, "projects": [], "\\x": 1}',
        '{"meta": {"api-version": "1.0"}, "projects": [], 1: 1}',
    ],
)
def test_json_that_is_no_list(text: str) -> None:
    """Whatever it is: cut, twice, of another version, or another document."""
    with pytest.raises(MalformedPage):
        as_json(text.encode())


@pytest.mark.parametrize(
    "entries",
    [
        '"six"',
        "1",
        "null",
        "[]",
        "{}",
        '{"Name": "six"}',
        '{"name": null}',
        '{"name": ["six"]}',
        '{"name": "six",}',
        '{"name": "six"} {"name": "a"}',
        '{"name": "six"},',
        ',{"name": "six"}',
        '{"name": "six"},,{"name": "a"}',
        '{"name": "six"}, 1',
        '{"name": "six", "x": {}}; {"name": "a"}',
        '{"name": "\\ud800"}',
        '{"name": "six", "x": NaN}',
        '{"name": "six" "x": 1}, {"name": "a"}',
    ],
)
def test_entries_that_are_none(entries: str) -> None:
    """Alone, and behind good ones."""
    for before in (b"", b'{"name": "first"}, '):
        with pytest.raises(MalformedPage):
            as_json(START + before + entries.encode() + b"]}")


def test_limits_of_json() -> None:
    """One part up to 64 KiB, nesting up to 32, 64 members; and an end that never comes is not waited for."""
    fits = as_json(START + b'{"name": "%b"}]}' % (b"x" * (VALUE_LIMIT - 20)))
    assert len(fits["projects"][0]["name"]) == VALUE_LIMIT - 20
    nested = b'{"name": "x", "deep": ' + b"[" * 31 + b"]" * 31 + b"}]}"
    assert as_json(START + nested)
    members = b"".join(b'"%d": 1, ' % number for number in range(62))
    assert len(as_json(b"{" + members + START[1:] + b"]}")) == 64
    for text in (
        START + b'{"name": "' + b"x" * 300_000,
        START + b'{"name": "x", "deep": ' + b"[" * 32 + b"]" * 32 + b"}]}",
        b"{" + members + b'"63": 1, ' + START[1:] + b"]}",
        b'{"' + b"x" * 300_000,
        b'{"x": ' + b"1" * 300_000,
    ):
        with pytest.raises(MalformedPage):
            as_json(text)


def test_an_entry_across_two_steps() -> None:
    """Wherever the border lies in it: in a string, behind a backslash, between entry and comma."""
    entry = b'{"name": "a\\\\\\"}]", "x": [{}, 1, "]"]} , '
    for shift in range(len(entry) + 2):
        before = STEP - len(START) - shift
        text = START + b" " * before + entry + b'{"name": "b"}]}'
        assert as_json(text)["projects"] == [{"name": 'a\\"}]', "x": [{}, 1, "]"]}, {"name": "b"}]


def test_spaces_cost_nothing() -> None:
    """They are skipped, not waited for."""
    assert as_json(b" " * 300_000 + START + b" " * 300_000 + b"]" + b" " * 300_000 + b"}" + b"\n" * 300_000)


# --- HTML, written


@FEW
@given(PROJECTS)
def test_html_of_any_names(projects: list[dict[str, Any]]) -> None:
    """One line for each; nothing of a name gets out of its text or out of its link."""
    data = json.dumps({"meta": META, "projects": projects}).encode()
    page = written(HtmlWriter(JsonEvents()), data).decode()
    lines = re.findall(r'<a href="([A-Za-z0-9_.~%-]*)/">([^<>]*)</a><br>\n', page)
    assert [html.unescape(text) for _, text in lines] == [project["name"] for project in projects]
    top, _, rest = page.partition("<body>\n")
    assert re.sub(r'<a href="[^"<>]*">[^<>]*</a><br>\n', "", rest) == "</body>\n</html>\n"
    assert '<meta name="pypi:repository-version" content="1.1">' in top


def test_html_whose_meta_comes_late() -> None:
    """What was said of the version is too late for the head: nothing is promised."""
    text = b'{"x": {}, "projects": [{"name": "six"}], "meta": {"api-version": "1.3"}}'
    page = written(HtmlWriter(JsonEvents()), text)
    assert b'content="1.0"' in page
    assert b'<a href="six/">six</a>' in page


# --- HTML, read

NAMES = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,20}[A-Za-z0-9])?", fullmatch=True)
SHAPES: list[Callable[[str], str]] = [
    lambda name: f'<a href="{normalise_project(name)}/">{name}</a><br>\n',
    lambda name: f'<a href="/simple/{normalise_project(name)}/">{name}</a>\n',
    lambda name: f"<a href='./{normalise_project(name)}'>{name}</a>",
    lambda name: f"<A class=x HREF={SITE}{normalise_project(name)}/#top>\n {name} </A>",
    lambda name: f'<li><a rel="x > y" href="//example.com/simple/{normalise_project(name)}/"><b>{name}</b></a></li>',
    lambda name: f'<!-- <a href="no/">no</a> --><a href="{normalise_project(name)}/" data-x="1">{name}</a>',
    lambda name: f'<style>a > b {{}} <a href="no/"></style><a href="{normalise_project(name)}/">{name}',
]


@FEW
@given(st.lists(st.tuples(NAMES, st.sampled_from(SHAPES)), min_size=1), st.lists(st.integers(0, 5000), max_size=6))
def test_html_names(entries: list[tuple[str, Callable[[str], str]]], cuts: list[int]) -> None:
    """Every name, in its own spelling, however its anchor is written and the page is cut."""
    page = "".join(shape(name) for name, shape in entries) + "</body></html>"
    assert names_in(page) == [name for name, _ in entries]
    whole = written(JsonWriter(AnchorEvents(SITE, SITE)), page.encode())
    assert written(JsonWriter(AnchorEvents(SITE, SITE)), page.encode(), cuts) == whole


@FEW
@given(st.lists(NAMES, min_size=1), st.integers(0, 2 * STEP))
def test_html_at_the_border_of_a_step(names: list[str], before: int) -> None:
    """Whatever lies across it."""
    lines = "".join(SHAPES[number % len(SHAPES)](name) for number, name in enumerate(names))
    assert names_in(f"<title>Simple index</title>{' ' * before}{lines}</html>") == names


LIST = "<html><head><title>Simple index</title></head><body>"


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ('<a href="six/">six/</a>', ["six"]),
        ('<a href="six/"><img src="x">The best</a>', ["six"]),
        ('<a href="Six.py/">six-py</a>', ["six-py"]),
        ('<a href="a&#98;c/">a&#98;c</a>', ["abc"]),
        ('<a href="%73ix/">six</a>', ["six"]),
        ('<a href="six/">six<a href="a/">a</a>', ["six", "a"]),
        ('<a href="six/">six</body>', ["six"]),
        ('<a href="../">../</a><a href="?C=N">Name</a><a href="/">Home</a><a>x</a><a href>y</a>', []),
        ('<a href="deep/six/">six</a><a href="https://example.org/simple/six/">six</a>', ["six", "six"]),
        ('<a href="/about/">About us</a><a href="/docs/guide">Docs</a>', []),
        ('<a href="m&uuml;sli/">m&uuml;sli</a><a href="-/">-</a>', []),
        ('1 < 2 </ 3 <? pi > <!x> </> <a href="six/">six</a>', ["six"]),
        ('<script>if (a<b) "<a href=\'no/\'>"</script><a href="six/">six</a><', ["six"]),
        ('<!--> <a href="six/">six</a> <!-- -- > no --!> </', ["six"]),
        ('<a href="six/" href="no/">six</a>', ["six"]),
        ("<a href=six/>six</a><a / href = 'a/' =x>a</a>", ["six", "a"]),
    ],
)
def test_anchors(page: str, names: list[str]) -> None:
    """Which links are projects, and what they are called."""
    assert names_in(LIST + page) == names


@pytest.mark.parametrize(
    ("page", "url", "names"),
    [
        ('<a href="six/">six</a>', "https://example.net/pypi/simple/", ["six"]),
        ('<a href="/pypi/simple/six/">six</a>', "https://example.net/pypi/simple/?x#y", ["six"]),
        ('<a href="/simple/six/">six</a>', "https://example.net/pypi/simple/", ["six"]),
        ('<base href="/simple/"><a href="six">six</a>', "https://example.com/elsewhere/x", ["six"]),
        ('<base><base href="/simple/"><base href="/no/"><a href="six/">six</a>', SITE, ["six"]),
    ],
)
def test_where_the_list_is(page: str, url: str, names: list[str]) -> None:
    """Links are those below the configured URL, below the one that redirects led to, or relative to the base."""
    assert names_in(page, url) == names


@pytest.mark.parametrize(
    "page",
    [
        "",
        "Welcome",
        "<html><body></body></html>",
        '<title>Hotel</title><a href="/login">login</a>',
        '<base href="/hotel/"><a href="login">login</a>',
        '<form action="x"></form><a href="login/">login</a>',
        '<a href="login/">login</a><iframe src="x">',
        '<script src="x"></script><a href="login/">login</a>',
        '<a href="six/">six</a><!-- never closed',
        '<a href="six/">six</a><a href="a/',
        '<a href="six/">six</a><script>never closed',
        '<meta name="pypi:repository-version" content="2.0"><a href="six/">six</a>',
        '<meta name="pypi:repository-version"><a href="six/">six</a>',
        f'{LIST}<a title="{"x" * 300_000}" href="six/">six</a>',
        f"{LIST}<!--{'x' * 300_000}-->",
    ],
)
def test_html_that_is_no_list(page: str) -> None:
    """A portal, a page of something else, a cut."""
    with pytest.raises(MalformedPage):
        names_in(page)


@pytest.mark.parametrize(
    "page",
    [
        '<meta charset="utf-8"><meta name="pypi:repository-version" content="1.0"><script>x</script>',
        '<META CONTENT=" 1.4 " NAME="pypi:repository-version">',
        "<title>Simple Index</title>",
        "<title>PyPI simple repository list</title>",
        "<h1>The simple\n index</h1>",
        "<title> Index of /x/</title><form>",
    ],
)
def test_empty_html(page: str) -> None:
    """What says that it is a list may be empty."""
    assert names_in(page) == []


def test_a_long_text() -> None:
    """It is no name, and it is not kept."""
    assert names_in(f'<a href="six/">{"x <b>y</b>" * 30_000}</a>') == ["six"]


@pytest.mark.parametrize(("end", "ended"), [("</html>", True), ("</BODY >", True), ("", False), ("</p>", False)])
def test_whether_html_shows_its_end(end: str, ended: bool) -> None:
    """A page that is not framed must close itself."""
    events = AnchorEvents(SITE, SITE)
    written(JsonWriter(events), f'<a href="six/">six</a>{end}'.encode())
    assert events.ended is ended


@pytest.mark.parametrize(
    ("content_type", "kind"),
    [
        ("application/vnd.pypi.simple.v1+json", JsonEvents),
        ("application/vnd.pypi.simple.latest+json; charset=utf-8", JsonEvents),
        ("Application/JSON", JsonEvents),
        ("text/html; charset=UTF-8", AnchorEvents),
        ("application/vnd.pypi.simple.v1+html", AnchorEvents),
    ],
)
def test_types(content_type: str, kind: type[Stepwise]) -> None:
    """As for pages."""
    assert isinstance(events_of(content_type, SITE, SITE), kind)


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/octet-stream"])
def test_other_types(content_type: str) -> None:
    """No list has them."""
    with pytest.raises(MalformedPage):
        events_of(content_type, SITE, SITE)


def test_json_ends_itself() -> None:
    """Its last brace is the proof."""
    events = JsonEvents()
    written(JsonWriter(events), START + b"]}")
    assert events.ended
    assert isinstance(events.finish(), Iterator)
