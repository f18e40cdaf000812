"""The values that flow: header lookup, and Cache-Status as RFC 9211 words it."""

from __future__ import annotations

import dataclasses
import re

import pytest

from proxy.core.messages import CacheStatus, Entry, Head, Headers, combined, kept_head

HEADERS: Headers = (("Vary", "Accept"), ("ETag", '"1"'), ("vary", "Accept-Encoding"), ("X-PyPI-Last-Serial", ""))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vary", "Accept, Accept-Encoding"),
        ("VARY", "Accept, Accept-Encoding"),
        ("etag", '"1"'),
        ("x-pypi-last-serial", ""),
        ("age", None),
    ],
)
def test_header(name: str, value: str | None) -> None:
    """RFC 9110 §5.1 and §5.2: names without case, values of one name joined in order."""
    assert combined(HEADERS, name) == Head(200, HEADERS, 1.0, 2.0).header(name) == value


def test_kept_head() -> None:
    """What is read again is kept, in its order; not what may be for us alone, under whatever name."""
    personal = ("Set-Cookie", "SET-COOKIE2", "WWW-Authenticate", "Proxy-Authenticate", "authentication-info")
    signed = ("Content-Location", "Link", "Location", "Refresh")
    told = tuple((name, "secret") for name in (*personal, *signed, "Proxy-Authentication-Info", "X-Debug"))
    head = Head(200, (*told[:3], *HEADERS, *told[3:]), 1.0, 2.0)
    assert kept_head(head) == Head(200, HEADERS, 1.0, 2.0)


@pytest.mark.parametrize(
    ("status", "value"),
    [
        (CacheStatus("moved", ""), "pip-cache-proxy"),
        (CacheStatus("hit", "fresh", hit=True, ttl=600), 'pip-cache-proxy; hit; ttl=600; detail="fresh"'),
        (CacheStatus("stale", "late", hit=True, ttl=-5), 'pip-cache-proxy; hit; ttl=-5; detail="late"'),
        (CacheStatus("hit", "now", hit=True, ttl=0), 'pip-cache-proxy; hit; ttl=0; detail="now"'),
        (
            CacheStatus("miss", "not cached", forward="uri-miss", forward_status=200, stored=True, collapsed=True),
            'pip-cache-proxy; fwd=uri-miss; fwd-status=200; stored; collapsed; detail="not cached"',
        ),
        (
            CacheStatus("revalidated", "unchanged", forward="stale", forward_status=304),
            'pip-cache-proxy; fwd=stale; fwd-status=304; detail="unchanged"',
        ),
    ],
)
def test_cache_status(status: CacheStatus, value: str) -> None:
    """RFC 9211 §2: one list member with parameters, in RFC 8941 syntax."""
    assert status.header() == value
    parameter = r'; [a-z-]+(=([a-z-]+|-?[0-9]+|"[^"\\]*"))?'
    assert re.fullmatch(rf"pip-cache-proxy({parameter})*", value)


def test_values_are_frozen() -> None:
    """What flows between rooms cannot be changed on the way."""
    head = Head(200, (), 1.0, 2.0)
    entry = Entry("key", "tag", "https://example.com/a.whl", head, "", 0, "")
    for value, name in ((head, "status"), (entry, "key")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, name, None)
