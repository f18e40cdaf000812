"""A page as bytes: formats, depths, ETags, and what becomes of damaged bytes."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.codings import decompress
from proxy.core.messages import Entry, Head
from proxy.core.negotiation import HTML, HTML_V1, JSON_V1, Coding
from proxy.core.simple import render
from proxy.renditions import BASE, BASE_UP, DIGEST, View, all_keys, body_of, derive, packed, recode

ENTRY = Entry("page|main|six", "main/six", "https://example.com/simple/six/", Head(200, (), 1.0, 2.0), "v1", 0, "v1")
DEEP_UP = BASE_UP * 2
DOCUMENT: dict[str, Any] = {
    "meta": {"api-version": "1.1", "_last-serial": 7},
    "name": "six",
    "project-status": {"status": "active"},
    "files": [
        {
            "filename": f"six-{version}.tar.gz",
            "url": f"{BASE_UP}files/main/example.com/six-{version}.tar.gz",
            "hashes": {},
        }
        for version in ("1.0", "1.1")
    ],
}
RENDITION = packed(render(DOCUMENT, JSON_V1))
CODINGS: tuple[Coding, ...] = ("gzip", "zstd", "")
VIEWS = [
    View(media_type, up, coding)
    for media_type in (JSON_V1, HTML_V1, HTML)
    for up in (BASE_UP, DEEP_UP)
    for coding in CODINGS
]


def made_for(view: View) -> bytes:
    """The rendition behind that view."""
    made = derive(RENDITION, view)
    return recode(made) if view.coding == "zstd" else made


def test_the_base_is_the_document() -> None:
    """Coded for those who take it, plain for the others, and nothing is lost."""
    assert json.loads(body_of(RENDITION, View(JSON_V1, BASE_UP, ""))) == DOCUMENT
    packed = body_of(recode(RENDITION), View(JSON_V1, BASE_UP, "zstd"))
    assert json.loads(decompress(packed, "zstd")) == DOCUMENT
    assert json.loads(gzip.decompress(body_of(RENDITION, BASE))) == DOCUMENT


def test_renditions_repeat() -> None:
    """The same page gives the same bytes, today and after a restart: no time stamp in the gzip header."""
    assert packed(render(DOCUMENT, JSON_V1)) == RENDITION
    assert recode(RENDITION) == recode(RENDITION)
    assert body_of(RENDITION, BASE)[4:8] == b"\0\0\0\0"


@pytest.mark.parametrize("view", VIEWS)
def test_derived(view: View) -> None:
    """From the base come all formats and depths, with links that lead to the root from there."""
    made = made_for(view)
    plain = decompress(made[DIGEST:], view.coding or "gzip")
    text = plain.decode()
    for file in DOCUMENT["files"]:
        link = view.up + file["url"].removeprefix(BASE_UP)
        assert f'"{link}"' in text
    assert text.count("files/main/") == 2
    if view.media_type == JSON_V1:
        assert {**json.loads(plain), "files": []} == {**DOCUMENT, "files": []}
    assert body_of(made, view) == (made[DIGEST:] if view.coding else plain)


def test_the_base_derives_itself() -> None:
    """Nothing changes on the way through: the ETag of a page does not depend on who asked first."""
    assert derive(RENDITION, BASE) == RENDITION


def test_etags_differ() -> None:
    """RFC 9110 §8.8.3: strong tags, one for every media type and coding; equal content makes them equal."""
    tags = {view: view.etag(made_for(view)) for view in VIEWS}
    assert len(set(tags.values())) == len(VIEWS)
    for tag in tags.values():
        assert tag[0] == tag[-1] == '"'
        assert tag[1:-1].isascii()
        assert '"' not in tag[1:-1]
    changed = packed(render({**DOCUMENT, "name": "seven"}, JSON_V1))
    assert BASE.etag(changed) != BASE.etag(RENDITION)


def test_keys() -> None:
    """One row serves gzip and identity, and both names of HTML; dropping a version drops every row."""
    keys = {view.key(ENTRY) for view in VIEWS}
    assert len(keys) == 8
    assert keys == set(all_keys(ENTRY))
    assert BASE.key(ENTRY) in keys
    assert all(key.startswith(f"{ENTRY.key}|{ENTRY.body}|") for key in keys)


@pytest.mark.parametrize(
    ("media_type", "content_type"),
    [(JSON_V1, JSON_V1), (HTML_V1, HTML_V1), (HTML, "text/html; charset=utf-8")],
)
def test_content_types(media_type: str, content_type: str) -> None:
    """PEP 691's types as they are; text/html says its charset."""
    assert View(media_type, BASE_UP).content_type() == content_type


@given(st.binary(max_size=200))
def test_garbage_is_a_known_error(garbage: bytes) -> None:
    """Whatever a damaged store hands back raises what callers are told to expect."""
    for base in (garbage, RENDITION[:DIGEST] + garbage):
        with pytest.raises(ValueError, match="not in that coding"):
            derive(base, View(HTML, BASE_UP))
        with pytest.raises(ValueError, match="not in that coding"):
            recode(base)


@given(st.integers(0, len(RENDITION) - 1))
def test_a_cut_rendition_is_a_known_error(length: int) -> None:
    """No part of a page is taken for the page."""
    with pytest.raises(ValueError, match="not in that coding"):
        derive(RENDITION[:length], View(HTML, BASE_UP))
    with pytest.raises(ValueError, match="not in that coding"):
        recode(RENDITION[:length])


@given(st.integers(0, len(RENDITION) - 1), st.integers(1, 255))
def test_a_flipped_bit_is_a_known_error(position: int, bits: int) -> None:
    """The checksums of gzip find what SQLite did not; a change in its header alone does not matter."""
    damaged = RENDITION[:position] + bytes([RENDITION[position] ^ bits]) + RENDITION[position + 1 :]
    try:
        made = derive(damaged, BASE)
    except ValueError:
        return
    assert made == RENDITION
