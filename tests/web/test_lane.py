"""The question that bytes ask: never one for two that the normal way would tell apart."""

from __future__ import annotations

import logging

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from proxy.core.messages import Head, Rules
from proxy.core.wishes import reload_ignored
from proxy.web.lane import LONGEST, fits, question_of
from proxy.web.translate import request_of

PIP = "pip/24.0 {}"
NAMES = (
    *("Accept", "Accept-Encoding", "Cache-Control", "If-None-Match", "If-Modified-Since", "If-Range", "Pragma"),
    *("Range", "User-Agent", "Host", "Connection", "X-Request-Id", "Authorization", "Cookie", "Forwarded"),
)
VALUES = ("", "a", "b", " a", "a ", "max-age=0", "no-cache", PIP, "pip/26.2", "pip/26.20 x", "uv/0.9", '"tag"', "gzip")


def head(target: str, *fields: tuple[str, str], method: str = "GET") -> bytes:
    """A request."""
    return "".join(
        [f"{method} {target} HTTP/1.1\r\n", *(f"{name}: {value}\r\n" for name, value in fields), "\r\n"]
    ).encode()


def spelled(name: str) -> st.SearchStrategy[str]:
    """That name, in any case."""
    return st.sampled_from((name, name.lower(), name.upper()))


fields = st.lists(st.tuples(st.sampled_from(NAMES).flatmap(spelled), st.sampled_from(VALUES)), max_size=5)
targets = st.sampled_from(("/simple/six/", "/simple/six/?format=x", "/simple/seven/", "/files/test/example.com/a.whl"))


def meaning(method: str, target: str, lines: list[tuple[str, str]]) -> tuple[object, ...]:
    """What the normal way makes of it, as far as it can change an answer; of a User-Agent what the reload rule does."""
    request = request_of(
        method, target, CIMultiDict((name, value.strip(" ")) for name, value in lines), ["test"], "test"
    )
    of_pip = reload_ignored(request, Head(200, (), 0.0, 0.0), 1e6, Rules())
    kept = {name: value for name, value in request.headers.items() if name != "user-agent"}
    hosts = [value.strip() for name, value in lines if name.lower() in ("host", "connection")]
    return request.method, request.target, kept, request.wanted_format, of_pip, hosts


@settings(max_examples=2000)
@given(
    targets, fields, targets, fields, st.sampled_from(("GET", "HEAD")), st.sampled_from(("GET", "HEAD")), st.booleans()
)
@example("/simple/six/", [("User-Agent", PIP), ("Cache-Control", "max-age=0")], "/simple/six/",
         [("User-Agent", "pip/26.2"), ("Cache-Control", "max-age=0")], "GET", "GET", True)  # fmt: skip
def test_one_question_has_one_meaning(
    target: str, one: list[tuple[str, str]], other: str, two: list[tuple[str, str]], first: str, second: str, same: bool
) -> None:
    """Whatever the fields are that are left out."""
    target, two, second = (
        (other, [*one, *(each for each in two if each[0] == "X-Request-Id")], first) if same else (target, two, second)
    )
    questions = question_of(head(target, *one, method=first)), question_of(head(other, *two, method=second))
    if questions[0] == questions[1] and questions[0] is not None:
        assert meaning(first, target, one) == meaning(second, other, two)


GOOD = head("/simple/six/", ("Host", "x"), ("Accept", "text/html"), ("User-Agent", PIP))


def test_what_does_not_matter() -> None:
    """Fields that no answer depends on, and of a User-Agent all but which pip it is."""
    question = question_of(GOOD)
    assert question is not None
    more = head("/simple/six/", ("X-Id", "1"), ("Host", "x"), ("Accept", "text/html"), ("User-Agent", "pip/24.0 more"))
    assert question_of(more) == question
    assert question_of(GOOD.replace(b"pip/24.0", b"pip/24.1")) != question
    assert question_of(GOOD.replace(b"text/html", b"text/xhtml")) != question
    assert question_of(GOOD.replace(b"Host: x", b"Host: y")) != question
    assert question_of(GOOD.replace(b"GET", b"HEAD")) != question


@pytest.mark.parametrize(
    "data",
    [
        GOOD[:-1], GOOD[:-2], GOOD + b"x", GOOD + GOOD, b"\r\n" + GOOD, GOOD.replace(b"\r\n", b"\n"), b"",
        GOOD.replace(b"HTTP/1.1", b"HTTP/1.0"), GOOD.replace(b"GET", b"POST"), GOOD.replace(b"GET /", b"GET http://x/"),
        GOOD.replace(b"GET /", b"GET  /"), GOOD.replace(b"six/", b"six/\xc3"), GOOD.replace(b"six/", b"s x/"),
        head("/simple/six/"), GOOD.replace(b"Accept:", b"Accept :"), GOOD.replace(b"Accept:", b" Accept:"),
        GOOD.replace(b"text/html", b"text/\0html"), GOOD.replace(b"text/html", b"text/\xff"),
        GOOD.replace(b"text/html", b"text\r\n /html"), GOOD.replace(b"text/html", b"text/html\rX: y"),
        *(
            head("/simple/six/", ("Host", "x"), (name, "5"))
            for name in (
                "Content-Length", "content-length", "Transfer-Encoding", "TRANSFER-ENCODING", "Expect", "Upgrade",
                "Content-Encoding", "Sec-WebSocket-Key1", "Trailer", "TE",
            )
        ),
        head("/simple/six/", ("Host", "x"), ("X", "y" * LONGEST)), head("/simple/six/", *[("X", "y")] * 61),
    ],
)  # fmt: skip
def test_what_is_no_plain_request_is_asked_the_normal_way(data: bytes) -> None:
    """Half a request, two of them, one with a body, and whatever a parser could read in another way."""
    assert question_of(data) is None


def test_an_aiohttp_that_is_not_known(caplog: pytest.LogCaptureFixture) -> None:
    """The lane stays closed, and the log says so; with the one that is installed it is open."""
    with caplog.at_level(logging.WARNING):
        assert fits()
        assert not caplog.records
        for version in ("3.14.4", "3.15.0", "4.0.0", "3.14.5rc1", ""):
            assert not fits(version)
    assert len(caplog.records) == 5
    assert "3.15.0" in caplog.records[1].message
