"""The JSON API: which documents are believed, where their files lead, and what no client can plant in them."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.jsonapi import base_of, parse, rooted
from proxy.core.messages import JsonTarget
from proxy.errors import MalformedPage

SIX = JsonTarget("main", "six")
URL = "https://example.com/pypi/six/json"
ROOT = "https://proxy.example.org:3143/below"
HERE = f"{ROOT}/files/main"
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


def shown(document: dict[str, Any], root: str = ROOT) -> Any:
    """The document as a client of that root gets it."""
    return json.loads(rooted(base_of(document, URL, "main"), root))


def nested(depth: int) -> bytes:
    """A document of six whose lists are so deep."""
    return b'{"info":{"name":"six"},"x":%s%s}' % (b"[" * depth, b"]" * depth)


# --- which documents are believed


@pytest.mark.parametrize(
    ("info", "asked"),
    [
        ({"name": "six", "version": "1.17.0"}, None),
        ({"name": "SIX"}, None),
        ({"name": "six", "version": None}, None),
        ({"name": "six"}, "1.0"),
        ({"name": "six", "version": None}, "1.0"),
        ({"name": "six", "version": "1.0"}, "1.0"),
        ({"name": "six", "version": "1.0"}, "1.0.0"),
        ({"name": "six", "version": "1.0rc1"}, "1.0-RC1"),
        ({"name": "six", "version": "2004d"}, "2004d"),
    ],
)
def test_documents(info: dict[str, Any], asked: str | None) -> None:
    """The project asked for, and the version in any spelling that PEP 440 calls the same."""
    document = {"info": info, "urls": []}
    assert parse(orjson.dumps(document), JsonTarget("main", "six", asked)) == document


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>please log in</html>",
        b'{"info":{"name":"six"}',
        b'{"info":{"name":"six"}}x',
        b"[]",
        b"null",
        b"{}",
        b'{"info":[]}',
        b'{"info":{}}',
        b'{"info":{"name":6}}',
        b'{"info":{"name":"seven"}}',
        b'{"name":"six","files":[],"meta":{"api-version":"1.0"}}',
        b'\xff{"info":{"name":"six"}}',
        nested(32),
        nested(5000),
    ],
    ids=lambda body: body[:30],
)
def test_what_is_no_document(body: bytes) -> None:
    """Nothing else takes the place of a good one: it is a failure that may pass."""
    with pytest.raises(MalformedPage) as caught:
        parse(body, SIX)
    assert (caught.value.status, caught.value.retry_after) == (503, 2)


def test_values_are_limited() -> None:
    """Before any is read: they take many times their bytes."""
    with pytest.raises(MalformedPage, match="too many values"):
        parse(b'{"info":{"name":"six","version":"1"},"more":[' + b"{}," * 1_500_000 + b"{}]}", SIX)


def test_nesting_up_to_the_limit() -> None:
    """32 levels, the document's own counted."""
    assert parse(nested(31), SIX)["info"] == {"name": "six"}


@pytest.mark.parametrize("told", ["1.1", "", 1, [], "2004d", "1" * 5000])
def test_another_version(told: object) -> None:
    """What is said of another version is no answer; on the project's own document any version will do."""
    body = orjson.dumps({"info": {"name": "six", "version": told}})
    with pytest.raises(MalformedPage):
        parse(body, JsonTarget("main", "six", "1.0"))
    assert parse(body, SIX)


# --- where the files lead


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://example.org/p/six-1.whl", f"{HERE}/example.org/p/six-1.whl"),
        ("http://example.org:8080/p/six-1%2Bcpu.whl", f"{HERE}/example.org%3A8080/p/six-1%2Bcpu.whl"),
        ("http://[::1]:8080/a:b/six-1.whl", f"{HERE}/%5B%3A%3A1%5D%3A8080/a:b/six-1.whl"),
        ("https://example.org/p/six-1.whl?sig=secret#sha256=ab", f"{HERE}/example.org/p/six-1.whl"),
        ("../../packages/six-1.whl", f"{HERE}/example.com/packages/six-1.whl"),
        ("/packages/six-1.whl", f"{HERE}/example.com/packages/six-1.whl"),
        ('https://example.org/p/a"b\\six.whl', f"{HERE}/example.org/p/a%22b%255Csix.whl"),
        ("https://user:pass@example.org/six-1.whl", None),
        ("https://example.org/", None),
        ("ftp://example.org/six-1.whl", None),
        ("https://[six/six.whl", None),
        ("", None),
        (None, None),
        (["https://example.org/p/six-1.whl"], None),
    ],
)
def test_files(url: object, expected: str | None) -> None:
    """Absolute URLs below the client's own root, without a query; a file that has no place here is left out."""
    file = {"filename": "six-1.whl", "url": url, "digests": {"sha256": "ab"}, "x": None}
    made = shown({"info": {"name": "six"}, "urls": [file], "releases": {"1": [file, file], "2": []}})
    files = [] if expected is None else [{**file, "url": expected}]
    assert made == {"info": {"name": "six"}, "urls": files, "releases": {"1": files * 2, "2": []}}


def test_what_is_not_understood_is_carried() -> None:
    """Shapes nobody foresaw, and URLs that are no files, stay as they are and where they are."""
    document: dict[str, Any] = {
        "info": {"name": "six", "project_url": "https://example.com/project/six/", "home_page": ""},
        "last_serial": 123456,
        "urls": [7, None, {"filename": "six-1.whl"}, [{"url": "https://example.org/six-1.whl"}]],
        "releases": {"1.0": None, "2.0": {"url": "https://example.org/six-1.whl"}},
        "url": "https://example.org/six-1.whl",
        "vulnerabilities": [{"id": "X-1", "link": "https://example.org/x"}],
    }
    assert shown(document) == document
    assert list(shown(document)) == list(document)
    others: list[dict[str, Any]] = [{"info": {}, "urls": "none", "releases": []}, {"info": {}, "releases": {}}, {}]
    for other in others:
        assert shown(other) == other


@given(st.dictionaries(TEXTS.filter(lambda key: key not in ("urls", "releases")), VALUES, max_size=5), TEXTS)
def test_no_text_is_taken_for_the_root(document: dict[str, Any], text: str) -> None:
    """Whatever a package says of itself, NULs and roots included, comes out as it went in; and the root, whatever
    it is, changes only where files lead."""
    file = {"url": "https://example.org/six-1.whl", "comment": f"\0/files/main/{text}"}
    whole = {**document, "urls": [file], "description": f"\0{text}\0\\u0000"}
    moved = {**file, "url": f"{ROOT}{text}/files/main/example.org/six-1.whl"}
    assert shown(whole, ROOT + text) == {**whole, "urls": [moved]}


def test_what_is_kept_names_no_root() -> None:
    """One body serves every root: what one client said in its Host is in no other client's answer."""
    base = base_of({"urls": [{"url": "https://example.org/six-1.whl"}]}, URL, "main")
    assert base == b'{"urls":[{"url":"\0/files/main/example.org/six-1.whl"}]}'
    assert rooted(base, "http://a") == b'{"urls":[{"url":"http://a/files/main/example.org/six-1.whl"}]}'
    assert rooted(base, 'http://"') == b'{"urls":[{"url":"http://\\"/files/main/example.org/six-1.whl"}]}'
