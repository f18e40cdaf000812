"""What a HEAD says of the GET that is kept (RFC 9111 §4.3.5)."""

from __future__ import annotations

import pytest

from proxy.core.freshness import agrees
from proxy.core.messages import Entry, Head, Headers

SINCE, LATER = "Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:38 GMT"
TAG, DATE = ("ETag", '"a"'), ("Last-Modified", SINCE)


def entry(*lines: tuple[str, str], status: int = 200) -> Entry:
    """A response of 7 bytes."""
    return Entry("key", "tree/", "http://example.com/", Head(status, lines, 1.0, 1.0), "body", 7, "sha256")


ROWS = [
    # what is kept, the lines of the HEAD and its length, whether that agrees
    pytest.param((TAG, DATE), (TAG, DATE), 7, True, id="all-the-same"),
    pytest.param((TAG, DATE), (TAG,), None, True, id="one-is-enough"),
    pytest.param((TAG, DATE), (DATE,), None, True, id="also-the-date"),
    pytest.param((), (), 7, True, id="also-the-length"),
    pytest.param((TAG, DATE), (("ETag", '"b"'), DATE), 7, False, id="another-tag"),
    pytest.param((TAG, DATE), (TAG, ("Last-Modified", LATER)), 7, False, id="another-date"),
    pytest.param((TAG, DATE), (TAG, DATE), 8, False, id="another-length"),
    pytest.param((), (), 0, False, id="none-is-a-length"),
    pytest.param((("ETag", 'W/"a"'),), (TAG,), 7, False, id="weak-is-not-strong"),
    pytest.param((DATE,), (TAG,), 7, False, id="a-tag-that-was-not-there"),
    pytest.param((TAG,), (DATE,), 7, False, id="a-date-that-was-not-there"),
    pytest.param((TAG, DATE), (), None, None, id="nothing-is-said"),
    pytest.param((TAG,), (("ETag", "a"),), None, None, id="no-tag-at-all"),
]


@pytest.mark.parametrize(("lines", "said", "length", "same"), ROWS)
def test_a_head_of_what_is_kept(lines: Headers, said: Headers, length: int | None, same: bool | None) -> None:
    """It agrees in all that it says of validators and length, or it does not; or it says nothing of that."""
    assert agrees(entry(*lines), Head(200, said, 2.0, 2.0), length) is same


@pytest.mark.parametrize(("kept", "told"), [(200, 404), (200, 304), (404, 404), (200, 206)])
def test_other_statuses(kept: int, told: int) -> None:
    """Only a 200 says something."""
    assert agrees(entry(TAG, status=kept), Head(told, (TAG,), 2.0, 2.0), 7) is None


def test_a_missing_one_is_back() -> None:
    """What is kept says 404, the HEAD describes a representation: that is another answer, whatever its tag."""
    assert agrees(entry(TAG, status=404), Head(200, (TAG,), 2.0, 2.0), 7) is False
