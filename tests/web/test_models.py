"""What the admin API takes and gives: tables of fields, cursors, times."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.patterns import ALL, FILES, Selection
from proxy.errors import Refused
from proxy.kept import Cursor, Kept, Removed, Sum, Sums
from proxy.web.facts import cursor_of, cursor_text, file_of, files_json, info_of, path_text, removal_of
from proxy.web.models import (
    ExplainQuery,
    Limits,
    ListQuery,
    Model,
    Nothing,
    PurgeRequest,
    RefreshRequest,
    RemoveRequest,
    checked,
)

CANARY = "canary5f2e"
ROW = Kept(
    kind="wheel",
    what="file",
    index="test",
    project="six",
    version="1.0",
    filename="six-1.0-py3-none-any.whl",
    size=5,
    sha256="0" * 64,
    url="https://example.com/six-1.0-py3-none-any.whl",
    path="wheels/ab/0123456789abcdef/six-1.0-py3-none-any.whl",
    stored=1_763_816_000.75,
    last_used=0.0,
)


@pytest.mark.parametrize(
    ("model", "values", "said"),
    [
        (RemoveRequest, {}, "pattern is required"),
        (RemoveRequest, [], "expected a JSON object"),
        (RemoveRequest, None, "expected a JSON object"),
        (RemoveRequest, CANARY, "expected a JSON object"),
        (RemoveRequest, {"pattern": ""}, "pattern: expected text of 1 to 512 characters"),
        (RemoveRequest, {"pattern": CANARY * 52}, "pattern: expected text of 1 to 512 characters"),
        (RemoveRequest, {"pattern": 7}, "pattern: expected text of 1 to 512 characters"),
        (RemoveRequest, {"pattern": None}, "pattern: expected text of 1 to 512 characters"),
        (RemoveRequest, {"pattern": [CANARY]}, "pattern: expected text of 1 to 512 characters"),
        (RemoveRequest, {"pattern": "a", "dry_run": 1}, "dry_run: expected true or false"),
        (RemoveRequest, {"pattern": "a", "dry_run": "true"}, "dry_run: expected true or false"),
        (RemoveRequest, {"pattern": "a", "dry_run": None}, "dry_run: expected true or false"),
        (
            RemoveRequest,
            {"pattern": "a", "kind": CANARY},
            "kind: expected wheel, sdist, response or mount, or several of them",
        ),
        (
            RemoveRequest,
            {"pattern": "a", "kind": []},
            "kind: expected wheel, sdist, response or mount, or several of them",
        ),
        (
            RemoveRequest,
            {"pattern": "a", "kind": [["wheel"]]},
            "kind: expected wheel, sdist, response or mount, or several of them",
        ),
        (RemoveRequest, {"pattern": "a", "version": 1.0}, "version: expected text of 1 to 512 characters"),
        (
            RemoveRequest,
            {"pattern": "a", CANARY: 1},
            "expected no other fields than project, version, index, pattern, kind, dry_run",
        ),
        (PurgeRequest, {"pattern": "a"}, "expected no other fields than dry_run"),
        (RefreshRequest, {"index": "a"}, "project is required"),
        (Nothing, {CANARY: ""}, "expected no fields"),
        (ListQuery, {"limit": "0"}, "limit: expected a whole number from 1 to 100000"),
        (ListQuery, {"limit": "100001"}, "limit: expected a whole number from 1 to 100000"),
        (ListQuery, {"limit": "-1"}, "limit: expected a whole number from 1 to 100000"),
        (ListQuery, {"limit": "1_0"}, "limit: expected a whole number from 1 to 100000"),
        (ListQuery, {"limit": " 1"}, "limit: expected a whole number from 1 to 100000"),
        (ListQuery, {"limit": "1.0"}, "limit: expected a whole number from 1 to 100000"),
        (ListQuery, {"limit": "9" * 5000}, "limit: expected a whole number from 1 to 100000"),
        (ListQuery, {"limit": ""}, "limit: expected a whole number from 1 to 100000"),
        (ListQuery, {"limit": "\u0667"}, "limit: expected a whole number from 1 to 100000"),
        (ListQuery, {"kind": ["wheel", CANARY]}, "kind: expected wheel, sdist, response or mount, or several of them"),
        (ListQuery, {"kind": ["wheel"] * 5}, "kind: expected wheel, sdist, response or mount, or several of them"),
        (ListQuery, {"cursor": ""}, "cursor: expected what an answer gave as its cursor"),
        (ExplainQuery, {}, "path is required"),
        (ExplainQuery, {"path": "simple/"}, "path: expected a path that begins with a slash, as a URL has it"),
        (ExplainQuery, {"path": "/ä"}, "path: expected a path that begins with a slash, as a URL has it"),
        (ExplainQuery, {"path": "/a\n"}, "path: expected a path that begins with a slash, as a URL has it"),
        (ExplainQuery, {"path": "/", "method": "POST"}, "method: expected GET or HEAD"),
        (ExplainQuery, {"path": "/", "header": [CANARY]}, "header: expected Name: value, at most 32 of them"),
        (ExplainQuery, {"path": "/", "header": ["a: b\r\nc: d"]}, "header: expected Name: value, at most 32 of them"),
        (ExplainQuery, {"path": "/", "header": ["a: b"] * 33}, "header: expected Name: value, at most 32 of them"),
    ],
)
def test_what_is_refused(model: type[Model], values: object, said: str) -> None:
    """One clause that names the field by our own name for it and what was expected, and nothing of what was sent."""
    with pytest.raises(Refused) as caught:
        checked(model, values)
    assert (caught.value.status, caught.value.because) == (400, said)


@pytest.mark.parametrize(
    ("model", "values", "selection"),
    [
        (ListQuery, {}, Selection("*", kinds=FILES)),
        (ListQuery, {"kind": ["response"]}, Selection("*", kinds=frozenset({"response"}))),
        (
            ListQuery,
            {"pattern": "six-1*", "project": "S_i.X", "version": "1", "index": "a", "limit": "100000"},
            Selection("six-1*", "s-i-x", "1", "a", FILES),
        ),
        (RemoveRequest, {"pattern": "six"}, Selection("six", kinds=FILES)),
        (RemoveRequest, {"pattern": "*"}, Selection("*", kinds=ALL)),
        (RemoveRequest, {"pattern": "*", "project": "Six"}, Selection("*", "six", kinds=ALL)),
        (RemoveRequest, {"pattern": "*", "kind": "wheel"}, Selection("*", kinds=frozenset({"wheel"}))),
        (RemoveRequest, {"pattern": "**"}, Selection("**", kinds=FILES)),
        (
            RemoveRequest,
            {"pattern": "a", "kind": ["sdist", "response"]},
            Selection("a", kinds=ALL - {"wheel", "mount"}),
        ),
        (RemoveRequest, {"pattern": "a", "project": None, "kind": None}, Selection("a", kinds=FILES)),
        (PurgeRequest, {}, Selection()),
    ],
)
def test_selections(model: type[Any], values: dict[str, object], selection: Selection) -> None:
    """Responses go with everything or when they are named, and with no pattern by accident."""
    assert checked(model, values).selection() == selection


@given(
    st.sampled_from(["wheels", "responses"]), st.text(st.characters(codec="latin-1")), st.integers(-(2**63), 2**63 - 1)
)
def test_cursors_come_back(room: str, tag: str, rowid: int) -> None:
    """A cursor is one word of a URL, and means the same place when it comes back."""
    text = cursor_text(Cursor(room, tag, rowid))
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    assert cursor_of(text) == Cursor(room, tag, rowid)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "%%%%",
        "ä",
        "bnVsbA",  # null
        "W10",  # []
        "W1tbW10",  # [[[]
        cursor_text(Cursor("elsewhere", "a/b", 1)),
        cursor_text(Cursor("wheels", "a/b", 2**63)),
        cursor_text(Cursor("wheels", "a/b", 1)) + "=",
        cursor_text(Cursor("wheels", "a/b", True)),
        "W1sid2hlZWxzIiwiYS9iIiwxXQ",
        "WyJ3aGVlbHMiLCAiYS9iIiwgMV0",  # another spelling of a good one
    ],
)
def test_bad_cursors(text: str) -> None:
    """What no answer gave is no place in a list."""
    with pytest.raises(ValueError):  # noqa: PT011 - its text is nobody's
        cursor_of(text)


@given(st.text())
def test_any_text_is_a_cursor_or_none(text: str) -> None:
    """No other exception comes out of it."""
    with contextlib.suppress(ValueError):
        assert cursor_text(cursor_of(text)) == text


def test_a_file() -> None:
    """All of its fields, with times that people can read; both ways of writing it are one."""
    told = file_of(ROW)
    assert json.loads(files_json([ROW])) == told.model_dump()
    assert told.model_dump() == {
        "project": "six",
        "version": "1.0",
        "filename": "six-1.0-py3-none-any.whl",
        "kind": "wheel",
        "what": "file",
        "size": 5,
        "sha256": "0" * 64,
        "index": "test",
        "url": "https://example.com/six-1.0-py3-none-any.whl",
        "path": "wheels/ab/0123456789abcdef/six-1.0-py3-none-any.whl",
        "stored": "2025-11-22T12:53:20Z",
        "last_used": "1970-01-01T00:00:00Z",
    }


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-1.0, "1970-01-01T00:00:00Z"), (1e300, "9999-12-31T23:59:59Z"), (float("inf"), "9999-12-31T23:59:59Z")],
)
def test_times_that_no_clock_shows(seconds: float, said: str) -> None:
    """A damaged row costs nobody the list."""
    assert file_of(ROW._replace(stored=seconds)).stored == said


def test_info() -> None:
    """Figures as they are, a ratio where there is one, and null for what nobody knows."""
    sums = Sums(Sum(2, 10), Sum(0, 0), Sum(3, 7), Sum(4, 9))
    limits = Limits(max_size=1, responses_max_size=2, mounts_max_size=4, min_free=3)
    told = info_of(Path("/c"), sums, limits, free=9, served=(2, 1), since=1.0, degraded="the disk is full").model_dump()
    assert told == {
        "dir": "/c",
        "locations": {"wheels": "/c/wheels", "responses": "/c/responses", "mounts": "/c/mounts"},
        "wheels": {"count": 2, "bytes": 10},
        "sdists": {"count": 0, "bytes": 0},
        "responses": {"count": 3, "bytes": 7},
        "mounts": {"count": 4, "bytes": 9},
        "limits": {"max_size": 1, "responses_max_size": 2, "mounts_max_size": 4, "min_free": 3},
        "free": 9,
        "hits": 2,
        "misses": 1,
        "hit_ratio": 0.6667,
        "since": "1970-01-01T00:00:01Z",
        "degraded": "the disk is full",
    }
    unserved = info_of(Path("/c"), sums, limits).model_dump()
    assert {name for name, value in unserved.items() if value is None} == {
        "free", "hits", "misses", "hit_ratio", "since", "degraded",
    }  # fmt: skip
    assert info_of(Path("/c"), sums, limits, served=(0, 0)).hit_ratio is None


def test_a_removal() -> None:
    """Count and bytes beside the files themselves."""
    told = removal_of(Removed((ROW, ROW), 10, 3), dry_run=True)
    assert (told.count, told.bytes, told.directories, told.dry_run) == (2, 10, 3, True)
    assert told.removed == [file_of(ROW)] * 2


def test_a_path_that_is_no_text() -> None:
    """A directory may have any bytes in its name; JSON may not."""
    assert path_text(Path("/caf\udce9")) == "/caf\ufffd"
