"""Plain pages: whatever is read here is read by ``simple`` alike, and all that is not plain is left to it."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.core import plainpage
from proxy.core.hypertext import FILES_LIMIT
from proxy.core.negotiation import JSON_V1
from proxy.core.plainpage import PlainPage
from proxy.core.simple import parse, relocate
from proxy.core.urls import link_of

UP = "../../files/test/"
URL = "https://example.com/simple/six/"
ORIGIN = "https://files.example.org:8443"
SHA = "0123456789abcdef" * 4
COMPACT, SPACED = (",", ":"), (", ", ": ")


def a_file(name: str = "six-1.whl", **changes: Any) -> dict[str, Any]:
    """A file of a page, with keys replaced; those that are no names have a dash for each underscore."""
    made = {"filename": name, "url": f"{ORIGIN}/packages/{name}", "hashes": {"sha256": SHA}}
    return made | {key.replace("_", "-"): value for key, value in changes.items()}


def a_page(*files: Any, **changes: Any) -> dict[str, Any]:
    """A page of these files."""
    made = {"meta": {"api-version": "1.4", "_last-serial": 7}, "name": "Six", "files": list(files)}
    return made | {key.replace("_", "-"): value for key, value in changes.items()}


def read(page: Any, separators: tuple[str, str] = COMPACT) -> PlainPage | None:
    """It, as its JSON would be read."""
    return plainpage.read(as_json(page, separators), "six", UP)


def as_json(page: Any, separators: tuple[str, str] = COMPACT) -> bytes:
    """Beyond ASCII as it is."""
    return json.dumps(page, separators=separators, ensure_ascii=False).encode()


def agrees(body: bytes) -> bool:
    """Whether the page is plain; then both readers say the same of it."""
    plain = plainpage.read(body, "six", UP)
    if plain is None:
        return False
    page = parse(body, JSON_V1, URL, "six")
    assert orjson.loads(plain.text) == relocate(page.document, lambda url: UP + link_of(url))
    assert (plain.files, plain.links) == (page.files, page.links)
    return True


FULL = a_file(
    size=2**63 - 1,
    upload_time="2026-01-02T03:04:05.000006Z",
    core_metadata={"sha256": SHA},
    data_dist_info_metadata={"sha256": SHA},
    requires_python=">=3.9",
    yanked="broken",
    gpg_sig=True,
    provenance="https://example.com/integrity/six",
)
PLAIN = [
    a_page(FULL, a_file("six-2.whl"), versions=["1", "2"], alternate_locations=[], project_status={"status": "active"}),
    a_page({"filename": "six-1.whl", "url": f"{ORIGIN}/six-1.whl"}),
    a_page(a_file(core_metadata=True)),
    a_page(a_file(core_metadata=False, dist_info_metadata=True)),
    a_page(a_file(dist_info_metadata={"SHA256": SHA.upper(), "md5": "no hash"})),
    a_page(a_file(core_metadata=None, size=None, upload_time=None, requires_python=None, yanked=False)),
    a_page(a_file(hashes={"url": "a key like another"}), meta={"api-version": "1.0", "tracks": None, "new": True}),
    a_page(a_file(), a_file()),
    a_page(a_file(provenance="https://files.example.org/other/port")),
]
OTHERS = {
    "no files": a_page(),
    "an unknown key": a_page(a_file(_private=1)),
    "an unknown key of the page": a_page(a_file(), _private=1),
    "something nested": a_page(a_file(hashes={"sha256": {"deep": SHA}})),
    "an escape": a_page(a_file(requires_python='"')),
    "a letter": a_page(a_file(requires_python="é")),
    "a size below zero": a_page(a_file(size=-1)),
    "a size beyond all": a_page(a_file(size=2**63)),
    "a size in pieces": a_page(a_file(size=1.0)),
    "another project": a_page(a_file(), name="seven"),
    "a version we cannot read": a_page(a_file(), meta={"api-version": "2.0"}),
    "no version": a_page(a_file(), meta={}),
    "a version that is no text": a_page(a_file(), meta={"api-version": 1}),
    "two origins": a_page(a_file(), a_file(url="https://example.com/six-2.whl")),
    "a query": a_page(a_file(url=f"{ORIGIN}/six-1.whl?token=1")),
    "a relative link": a_page(a_file(url="../six-1.whl")),
    "a link with dots": a_page(a_file(url=f"{ORIGIN}/a/../six-1.whl")),
    "a relative provenance": a_page(a_file(provenance="/integrity")),
    "a provenance of that origin": a_page(a_file(provenance=f"{ORIGIN}/integrity")),
    "a hash that looks like a link": a_page(a_file(hashes={"url": f"{ORIGIN}/x"})),
    "a version that looks like a link": a_page(a_file(), versions=[f"{ORIGIN}/x"]),
    "no document": [],
}


@pytest.mark.parametrize("separators", [COMPACT, SPACED], ids=["compact", "spaced"])
@pytest.mark.parametrize("number", range(len(PLAIN)))
def test_plain_pages(number: int, separators: tuple[str, str]) -> None:
    """Both readers agree, and of the text nothing but the links is another."""
    body = as_json(PLAIN[number], separators)
    assert agrees(body)
    plain = plainpage.read(body, "six", UP)
    assert plain is not None
    assert plain.text.replace(UP.encode(), b"https://") == body


@pytest.mark.parametrize("name", OTHERS)
def test_other_pages(name: str) -> None:
    """They are left to the other reader, whatever that says."""
    assert read(OTHERS[name]) is None
    assert read(OTHERS[name], SPACED) is None


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", as_json(PLAIN[0])[:-1], as_json(PLAIN[0]) + b"x"])
def test_broken_pages(body: bytes) -> None:
    """What is no JSON is none here."""
    assert plainpage.read(body, "six", UP) is None


def test_keys_that_are_spelled_in_two_ways() -> None:
    """One link would stay as it is: however many others there are, such a page is not plain."""
    spaced, compact = as_json(a_file("six-1.whl"), SPACED).decode(), as_json(a_file("six-2.whl")).decode()
    twice = compact.replace('"url":', f'"url":"{ORIGIN}/x","url":')
    for files in ([spaced, compact], [compact, spaced], [spaced, twice], [twice, spaced]):
        text = as_json(a_page("HERE")).decode().replace('"HERE"', ",".join(files))
        assert json.loads(text)["name"] == "Six"
        assert plainpage.read(text.encode(), "six", UP) is None


def test_too_many_files() -> None:
    """The bound is that of all pages."""
    assert read(a_page(*[a_file()] * 3)) is not None
    assert read(a_page(*[a_file()] * (FILES_LIMIT + 1))) is None


def test_large_pages() -> None:
    """Beyond a size it is looked first whether they hold too many values."""
    files = [a_file(requires_python="x" * 1000)] * 7000
    assert agrees(as_json(a_page(*files)))
    assert read(a_page(*files, versions=["1"] * 4_100_000)) is None


TEXT = st.sampled_from(["url", "sha256", SHA, "1.0", "", "a", f"{ORIGIN}/a", ORIGIN, "https://example.com/a", '"', "é"])
VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT | st.dictionaries(TEXT, TEXT)
KEYS = st.sampled_from(["size", "core-metadata", "dist-info-metadata", "hashes", "provenance", "yanked", "x"])
LINKS = st.sampled_from([f"{ORIGIN}/a", f"{ORIGIN}/b/c", "https://example.com/a", "a", f"{ORIGIN}/a/"])
FILES = st.builds(
    lambda url, more: {"filename": "a", "url": url, **more}, LINKS | TEXT, st.dictionaries(KEYS, VALUES, max_size=2)
)
PAGES = st.builds(
    lambda files, more: a_page(*files) | more,
    st.lists(FILES, max_size=3),
    st.dictionaries(st.sampled_from(["versions", "meta", "project-status", "x"]), VALUES | st.lists(TEXT), max_size=1),
)


@given(PAGES, st.sampled_from([COMPACT, SPACED]))
@example(a_page(a_file()), SPACED)
def test_both_readers_agree(page: dict[str, Any], separators: tuple[str, str]) -> None:
    """Whatever the page."""
    agrees(as_json(page, separators))
