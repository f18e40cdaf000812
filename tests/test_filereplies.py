"""Files an upstream lacks: remembered for a moment, and not more of them than the table holds."""

from __future__ import annotations

import pytest

from proxy import filereplies
from proxy.core.messages import Rules
from proxy.errors import UpstreamFailed
from proxy.filereplies import FileReplies


def replies() -> FileReplies:
    """One that has judged nothing yet."""
    return FileReplies(rules=Rules(), clock=lambda: 0.0)


def test_a_file_that_is_lacking() -> None:
    """503 at once, and no upstream status: that would be looked at as news. Other files are not meant."""
    made = replies()
    made.expect("one")
    made.lacks("one")
    with pytest.raises(UpstreamFailed) as caught:
        made.expect("one")
    assert (caught.value.status, caught.value.retry_after, caught.value.upstream_status) == (503, 2, None)
    made.expect("another")


def test_it_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The moment passes, and leaves nothing behind."""
    made = replies()
    made.lacks("one")
    monkeypatch.setattr(filereplies, "LACKING_FOR", 0.0)
    made.expect("one")
    assert made._lacking == {}


def test_the_table_is_bounded() -> None:
    """Who asks for everything that is missing costs no memory; the newest are remembered."""
    made = replies()
    for number in range(5000):
        made.lacks(str(number))
    assert len(made._lacking) == 4096
    made.expect("0")
    with pytest.raises(UpstreamFailed):
        made.expect("4999")
