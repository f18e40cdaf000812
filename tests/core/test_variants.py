"""Which stored responses may answer a request (RFC 9111 §4.1), which of them does, and how many are kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.fields import format_date
from proxy.core.messages import Head
from proxy.core.variants import (
    MOST,
    Variant,
    chosen_by,
    dumped,
    loaded,
    matching,
    precedence,
    selecting,
    with_newest,
)

NOW = 1_790_000_000.0
NAMES = st.lists(st.sampled_from(["accept", "accept-language", "x-a", "x-b"]), unique=True).map(sorted).map(tuple)


def head(*lines: tuple[str, str]) -> Head:
    """A response received now."""
    return Head(200, lines, NOW, NOW)


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        ((), ()),
        ((("Vary", ""),), ()),
        ((("Vary", "Accept"),), ("accept",)),
        ((("vary", " X-B,accept ,, x-b\t"),), ("accept", "x-b")),
        ((("Vary", "b"), ("VARY", "A")), ("a", "b")),
        ((("Vary", "*"),), ("*",)),
    ],
)
def test_what_selects(lines: tuple[tuple[str, str], ...], names: tuple[str, ...]) -> None:
    """Names in lower case, sorted, each once: their order and spelling mean nothing."""
    assert selecting(head(*lines)) == names


SAME = [
    ("x-a", "1, 2", "1,2"),
    ("x-a", " 1 ,\t2 ", "1,2"),
    ("accept-language", "DE, en", "de,EN"),
    ("accept-encoding", "GZIP", "gzip"),
    ("accept-charset", "UTF-8", "utf-8"),
]
OTHER = [
    ("x-a", "", None),
    ("x-a", "1", "2"),
    ("x-a", "1,2", "2,1"),
    ("x-a", "A", "a"),
    ("x-a", "-", None),
    ("x-a", "1 2", "12"),
    ("user-agent", "A/1", "a/1"),
    ("accept-language", "de, en", "en, de"),
]


def variant(name: str, value: str | None) -> Variant:
    """What one field with that value chooses."""
    return chosen_by((name,), {} if value is None else {name: value})


@pytest.mark.parametrize(("name", "one", "other"), SAME)
def test_the_same_in_other_words(name: str, one: str, other: str) -> None:
    """Whitespace, and case where it is known to mean nothing."""
    assert variant(name, one) == variant(name, other)


@pytest.mark.parametrize(("name", "one", "other"), OTHER)
def test_not_the_same(name: str, one: str, other: str | None) -> None:
    """Absent is not empty; order and case may mean something."""
    assert variant(name, one) != variant(name, other)


def test_nothing_selects() -> None:
    """Then there is one variant, whoever asks."""
    assert chosen_by((), {"x-a": "1"}) == Variant((), "")


def test_fields_are_not_mixed_up() -> None:
    """A value cannot pass for another field's."""
    assert chosen_by(("a", "b"), {"a": "1", "b": "2"}) != chosen_by(("a", "b"), {"a": "1", "b": "1"})
    assert chosen_by(("a", "b"), {"a": "1"}) != chosen_by(("a", "b"), {"b": "1"})
    assert chosen_by(("a", "b"), {"a": "b:+1"}) != chosen_by(("a", "b"), {"b": "1"})


def test_octets_that_are_no_text() -> None:
    """They choose as well as any."""
    assert variant("x-a", "\xe4") != variant("x-a", "\xff")
    assert variant("x-a", "\udce4").mark


@given(NAMES, st.dictionaries(st.sampled_from(["accept", "x-a", "x-b"]), st.sampled_from(["", "1", "2"])))
def test_a_request_matches_what_it_chose(names: tuple[str, ...], headers: dict[str, str]) -> None:
    """Always, and other fields change nothing."""
    chosen = chosen_by(names, headers)
    assert matching([chosen], {**headers, "x-other": "1"}) == [chosen]
    assert "|" not in chosen.mark


def test_those_that_match() -> None:
    """In their order; the one for all, too."""
    for_all, one, two = Variant((), ""), variant("x-a", "1"), variant("x-a", "2")
    assert matching([two, one, for_all], {"x-a": "1"}) == [one, for_all]
    assert matching([two, one], {}) == []


def test_which_of_them() -> None:
    """§4.1: one that says what it varies by before one that may have left that out; else the latest Date."""
    for_all, one, two = Variant((), ""), variant("x-a", "1"), variant("x-b", "1")
    early, late = head(("Date", format_date(NOW - 500))), head(("Date", format_date(NOW - 5)))
    assert precedence(one, early) > precedence(for_all, late)
    assert precedence(one, late) > precedence(two, early)
    assert precedence(one, head()) > precedence(one, late)


def test_so_many_are_kept() -> None:
    """The newest in front; what falls off the end is told, so that its body goes as well."""
    all_of_them = [variant("x-a", str(number)) for number in range(MOST)]
    newest = variant("x-a", "newest")
    assert with_newest([], newest) == ([newest], [])
    assert with_newest(all_of_them, newest) == ([newest, *all_of_them[:-1]], [all_of_them[-1]])
    again, gone = with_newest(all_of_them, all_of_them[7])
    assert (again[0], sorted(again, key=str), gone) == (all_of_them[7], sorted(all_of_them, key=str), [])


@given(st.lists(st.builds(lambda names, value: chosen_by(names, {"x-a": value}), NAMES, st.text(max_size=3))))
def test_there_and_back(variants: list[Variant]) -> None:
    """As it lies in the store."""
    assert loaded(dumped(variants)) == variants


NO_LISTS = [b"[[1]]", b'[["a", 1]]', b'["ab"]', b'{"ab": 1}', b"[" * 100_000]


@pytest.mark.parametrize("data", [None, b"", b"x", b"{", b"1", b"[1]", b"null", b"[[]]", b"\xff", *NO_LISTS])
def test_what_is_no_list(data: bytes | None) -> None:
    """It says nothing of variants: a miss."""
    assert loaded(data) == []
