"""What a mount answered is called: keys there and back, names of files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.mounted import body_name, place_of, raw_key, raw_name, rest_of, tag_of_mount, variants_key
from proxy.core.urls import usable_name

RESTS = st.text(st.sampled_from("aZ/|?%2e.&=~"), max_size=12)


@given(st.from_regex(r"[a-z0-9-]{1,8}", fullmatch=True), RESTS, st.from_regex(r"[0-9a-f]{0,32}", fullmatch=True))
def test_a_key_says_of_which_url_it_is(mount: str, rest: str, variant: str) -> None:
    """Whatever a client spelled: the fence and the list read it from there."""
    assert rest_of(raw_key(mount, rest, variant)) == rest


@pytest.mark.parametrize(
    ("rest", "name", "on_disk"),
    [
        ("a/cpython-3.12.1.tar.gz", "cpython-3.12.1.tar.gz", "cpython-3.12.1.tar.gz"),
        ("get-pip.py?v=1/2", "get-pip.py", "get-pip.py"),
        ("a/b%20c.txt", "b c.txt", "b c.txt"),
        ("", None, "body"),
        ("a/", None, "body"),
        ("a/?page=2", None, "body"),
        ("?page=2", None, "body"),
        (".hidden", ".hidden", "body"),
        ("a/b%2Fc", "b/c", "body"),
        ("a%0Ab", "a\nb", "body"),
        ("x" * 256, "x" * 256, "body"),
        ("%ff", "\ufffd", "\ufffd"),
    ],
)
def test_a_body_is_called_as_its_url_ends(rest: str, name: str | None, on_disk: str) -> None:
    """Decoded, without the query; what no file may be called is called something else."""
    assert (raw_name(rest), body_name(rest)) == (name, on_disk)


@given(RESTS)
def test_every_body_has_a_name_that_a_file_may_have(rest: str) -> None:
    """Or it could not be kept."""
    assert usable_name(body_name(rest))


def test_a_query_is_told_apart_and_not_repeated() -> None:
    """It may be a secret: in keys stands a hash of it, behind a path that is as it was."""
    assert place_of("a/b%20c|d") == "a/b%20c|d"
    places = {place_of(rest) for rest in ("a", "a?", "a?token=secret", "a?token=other", "a?token=secret?")}
    assert len(places) == 5
    assert all(place.partition("?")[0] == "a" and "secret" not in place for place in places)
    assert raw_name(place_of("a/b.txt?token=secret")) == "b.txt"


def test_other_keys() -> None:
    """What lists the variants of a URL, and what all of a mount lies under: an index and no project."""
    assert (variants_key("files", "a"), tag_of_mount("files")) == ("variants|files|a", "files/")
