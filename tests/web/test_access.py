"""Who may use the admin API: tables of tokens, scopes and browsers."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from multidict import CIMultiDict

from proxy.errors import Refused, UpstreamFailed
from proxy.web.access import Access, is_cross_site, token_of

WRITE, READ = "w" * 32, "r" * 43
ROOT = "http://example.com:3143"


def judged(fields: Sequence[tuple[str, str]], *, read: str | None = READ) -> str | int:
    """The scope of a request with these fields, else the status it is refused with."""
    access = Access(lambda: WRITE, None if read is None else lambda: read)
    try:
        return access.scope(CIMultiDict(fields), ROOT)
    except Refused as refused:
        return refused.status


def bearer(token: str, scheme: str = "Bearer") -> tuple[str, str]:
    """The field that shows a token."""
    return "Authorization", f"{scheme} {token}"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([bearer(WRITE)], "write"),
        ([bearer(READ)], "read"),
        ([bearer(WRITE, "bearer")], "write"),
        ([bearer(WRITE, "BEARER  ")], "write"),
        ([("authorization", f"bEaReR {READ}")], "read"),
        ([], 401),
        ([("Authorization", "")], 401),
        ([("Authorization", "Bearer")], 401),
        ([("Authorization", "Bearer ")], 401),
        ([("Authorization", WRITE)], 401),
        ([bearer(WRITE, "Basic")], 401),
        ([bearer(f"{WRITE} ")], 401),
        ([bearer(f"{WRITE}, Bearer {WRITE}")], 401),
        ([bearer(f"{WRITE[:-1]}ä")], 401),
        ([bearer(f"{WRITE[:-1]}\udcff")], 401),
        ([bearer(WRITE), bearer(WRITE)], 401),
        ([bearer(READ), bearer(WRITE)], 401),
        ([bearer("x" * 32)], 403),
        ([bearer(WRITE[:-1])], 403),
        ([bearer(f"{WRITE}w")], 403),
        ([bearer(WRITE.upper())], 403),
        ([bearer(WRITE + READ)], 403),
        ([("Cookie", f"token={WRITE}")], 401),
        ([("Proxy-Authorization", f"Bearer {WRITE}")], 401),
    ],
)
def test_tokens(fields: list[tuple[str, str]], expected: str | int) -> None:
    """One Authorization field, of this scheme, with one of both tokens, as a whole."""
    assert judged(fields) == expected


def test_without_a_read_token_nothing_else_reads() -> None:
    """What is not configured matches nothing."""
    assert judged([bearer(READ)], read=None) == 403
    assert judged([bearer(WRITE)], read=None) == "write"


def test_a_token_that_cannot_be_read_is_nobodys() -> None:
    """A file that vanished before anybody looked into it opens no door, and is no fault of the server's."""

    def unreadable() -> str:
        raise UpstreamFailed("the credentials cannot be read")

    access = Access(unreadable, lambda: READ)
    assert access.scope(CIMultiDict([bearer(READ)]), ROOT) == "read"
    with pytest.raises(Refused) as caught:
        access.scope(CIMultiDict([bearer(WRITE)]), ROOT)
    assert caught.value.status == 403


def test_a_401_says_how_to_come_in() -> None:
    """RFC 9110 §15.5.2: with a challenge."""
    with pytest.raises(Refused) as caught:
        Access(lambda: WRITE, None).scope(CIMultiDict(), ROOT)
    assert caught.value.headers == (("WWW-Authenticate", "Bearer"),)


@pytest.mark.parametrize(
    ("origins", "fetched_from", "root", "expected"),
    [
        ([], [], ROOT, False),
        ([ROOT], [], ROOT, False),
        (["HTTP://Example.com:3143"], ["same-origin"], ROOT, False),
        ([], ["none"], ROOT, False),
        ([], [" None "], ROOT, False),
        (["https://example.com"], [], "https://example.com/pypi", False),
        (["https://example.com"], [], "https://example.com:443", False),
        (["http://example.com:80"], [], "http://example.com", False),
        (["http://[::1]:3143"], [], "http://[::1]:3143", False),
        (["https://example.com:80"], [], "https://example.com", True),
        (["http://example.com:3143"], [], "https://example.com:3143", True),
        (["http://example.com"], [], ROOT, True),
        (["http://example.com:31430"], [], ROOT, True),
        (["http://example.com:3143.example.org"], [], ROOT, True),
        (["http://example.org"], ["same-origin"], ROOT, True),
        (["null"], [], ROOT, True),
        ([""], [], ROOT, True),
        (["*"], [], ROOT, True),
        ([ROOT, "http://example.org"], [], ROOT, True),
        ([f"{ROOT} http://example.org"], [], ROOT, True),
        ([], ["cross-site"], ROOT, True),
        ([], ["same-site"], ROOT, True),
        ([], [""], ROOT, True),
        ([], ["same-origin", "cross-site"], ROOT, True),
        ([], ["same-origin, cross-site"], ROOT, True),
        ([], ["future-word"], ROOT, True),
    ],
)
def test_other_sites(origins: list[str], fetched_from: list[str], root: str, expected: bool) -> None:
    """A page of this very origin may ask, and so may programs, which say nothing of it."""
    assert is_cross_site(origins, fetched_from, root) is expected
    if expected:
        fields = [("Origin", each) for each in origins] + [("Sec-Fetch-Site", each) for each in fetched_from]
        access = Access(lambda: WRITE, None)
        for token in ([], [bearer(WRITE)]):
            with pytest.raises(Refused) as caught:
                access.scope(CIMultiDict(fields + token), root)
            assert caught.value.status == 403


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (["Bearer abc"], b"abc"),
        (["bearer   a.b~c+d/e=="], b"a.b~c+d/e=="),
        ([], None),
        (["Bearer a", "Bearer a"], None),
    ],
)
def test_token_of(fields: list[str], expected: bytes | None) -> None:
    """The scheme's name has no case (RFC 9110 §11.1), the token is taken as it is."""
    assert token_of(fields) == expected
