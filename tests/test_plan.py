"""How a body proves itself where no page lists a hash: the end of a gzip stream."""

from __future__ import annotations

import gzip
import random

import pytest

from proxy.plan import GzipEnd

CONTENT = random.Random(1).randbytes(3_000) + bytes(1_000)
WHOLE = gzip.compress(CONTENT, mtime=0)
BODIES = {
    "whole": (WHOLE, False),
    "several members": (WHOLE + WHOLE, False),
    "padding": (WHOLE + b"\0", False),
    "more padding": (WHOLE + bytes(1_000), False),
    "a wrong label": (b"PK\3\4" + CONTENT, False),
    "a wrong label, tiny": (b"P", False),
    "broken": (WHOLE[:-8] + bytes(8), False),
    "grows too much to look at": (gzip.compress(bytes(2**22))[:-1], False),
    "empty": (b"", True),
    "a byte": (WHOLE[:1], True),
    "its head": (WHOLE[:10], True),
    "half": (WHOLE[:1_500], True),
    "no trailer": (WHOLE[:-8], True),
    "all but a byte": (WHOLE[:-1], True),
    "a second member that ends early": (WHOLE + WHOLE[:-1], True),
}


@pytest.mark.parametrize("pieces", [1, 7, 10_000_000])
@pytest.mark.parametrize(("body", "short"), BODIES.values(), ids=BODIES)
def test_the_end_of_a_gzip_stream(body: bytes, short: bool, pieces: int) -> None:
    """However it is cut into pieces; and only what is one at all."""
    end = GzipEnd()
    for offset in range(0, len(body), pieces):
        end.update(body[offset : offset + pieces])
    assert end.short is short
