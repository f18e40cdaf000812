"""Mounts between clients and origins that mean harm: what one of them can do to the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.harness.origin import HANG_UP, Origin, Question, Say, Tree, request, say, tree
from tests.harness.server import ProxyServer

FRESH = "max-age=1000"
MOUNTS: Mapping[str, Mapping[str, Any]] = {"keys": {"pass_credentials": True}, "ttl": {"default_ttl": "1h"}}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    """One proxy that these tests share."""
    with tree(tmp_path_factory.mktemp("mounts"), MOUNTS) as made:
        yield made


# --- what one client asked, told to all


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (("If-Match", '"none"'), 412),
        (("If-Unmodified-Since", "Thu, 01 Jan 1970 00:00:00 GMT"), 412),
        (("X-Large", "x" * 5000), 431),
        (("X-Often", "1"), 429),
        (("X-Without", "a condition"), 428),
        (("X-Not", "logged in"), 511),
    ],
)
def test_an_answer_to_fields_of_one_client(here: Tree, line: tuple[str, str], status: int) -> None:
    """What his fields alone brought about is told to him alone, whatever life the origin's error pages have."""

    def judged(question: Question) -> Say:
        return say("no", FRESH, status=status) if question.header(line[0]) else say("good", FRESH)

    rest = here.place(judged)
    assert here.get(rest, line).status == status
    here.idle()
    assert here.get(rest).body == b"good"


def test_another_method_in_a_field(here: Tree) -> None:
    """An origin that obeys such a field refuses it without a word of its life: no default makes that one."""

    def judged(question: Question) -> Say:
        return say("no", None, status=405) if question.header("x-http-method-override") else say("good", None)

    ttl = here.on("ttl")
    rest = ttl.place(judged)
    assert ttl.get(rest, ("X-HTTP-Method-Override", "PUT")).status == 405
    here.idle()
    assert ttl.get(rest).body == b"good"


# --- what an origin told one client


def test_cookies_of_one_client(here: Tree) -> None:
    """They are told to others only where the origin has said how long that answer lives (RFC 9111 §7.3)."""
    cookies = iter("abc")

    def session(question: Question) -> Say:
        if question.header("if-none-match"):
            return Say(304, (("ETag", '"e"'),))
        return say("hi", None, ("ETag", '"e"'), ("Set-Cookie", f"session={next(cookies)}"))

    keys = here.on("keys")
    rest = keys.place(session)
    assert keys.get(rest).all("set-cookie") == ["session=a"]
    here.idle()
    assert keys.get(rest).all("set-cookie") == ["session=b"]


def test_what_connection_may_not_name(here: Tree) -> None:
    """RFC 9110 §7.6.1: never a field for all recipients "(e.g., Cache-Control)"; nothing is kept by leaving it out."""
    rest = here.place(
        say("body", "no-store", ("Connection", "Cache-Control, Vary, X-Named"), ("X-Named", "1"), ("Vary", "*"))
    )
    told = here.get(rest)
    assert (told.header("cache-control"), told.header("vary"), told.header("x-named")) == ("no-store", "*", None)
    here.idle()
    assert not here.kept(rest)


def test_a_vary_of_very_many_names(here: Tree) -> None:
    """Nobody's requests are compared in so many fields: it is not kept."""
    names = [",".join(f"{line}-{number}" for number in range(500)) for line in range(8)]
    rest = here.place(say("body", FRESH, *[("Vary", each) for each in names]))
    assert here.get(rest).body == b"body"
    here.idle()
    assert not here.kept(rest)


# --- out of the mount


@pytest.mark.parametrize("path", ["..;/x", "a/..;y=1/x", "%2e%2e;/x", "a/%2E.%3b/x", ".;/x"])
def test_dots_with_parameters(here: Tree, path: str) -> None:
    """Some origins take ``..;`` for ``..``: it would lead out of the mount."""
    assert here.get(path).status == 400


# --- who keeps others from being served


def test_slow_uploads(here: Tree) -> None:
    """However many there are: they have connections of their own."""
    rest, good = here.place(say("ok", "no-store")), here.place(say("good", "no-store"))
    upload = request("PUT", here.path(rest), [("Content-Length", "9")]) + b"x"
    with ExitStack() as running:
        for _ in range(15):
            running.enter_context(connection := here.connect())
            connection.sendall(upload)
        here.taken_up()
        assert here.get(good).body == b"good"


def test_requests_that_make_an_origin_hang_up(tmp_path: Path) -> None:
    """What a client sends may be why: the origin is not left alone for it."""
    with (
        Origin() as origin,
        ProxyServer(tmp_path, {"test": f"{origin.url}simple/"}, mounts={"tree": origin.url}) as proxy,
    ):
        here = Tree(proxy, origin)
        good = here.place(say("good", "no-store"))
        for _ in range(8):
            assert here.ask("POST", here.place(HANG_UP), body=b"x").status == 503
        assert here.get(good).status == 200


def test_clients_that_leave_while_they_are_refused(here: Tree) -> None:
    """They hang up with half of the answer unread: no fault of ours, and no trace of it in the log."""
    rest = here.place(say("ok", "no-store"))
    for _ in range(100):
        with here.connect() as connection:
            connection.sendall(request("PUT", here.path(rest), [("Expect", "nonsense"), ("Content-Length", "9")]))
            assert connection.recv(9) == b"HTTP/1.1 "
    here.taken_up()
    here.idle()
    assert [line for line in here.proxy.log_lines(None) if line["level"] == "error"] == []


def test_fields_that_are_long_together(here: Tree) -> None:
    """To read a megabyte of directives takes half a second in which nobody else is served."""
    rest = here.place(say("ok", "no-store"))
    assert here.get(rest, *[("Cache-Control", 'a="",' * 1600)] * 7).status == 200
    assert here.get(rest, *[("Cache-Control", 'a="",' * 1600)] * 9).status == 431
    assert len(here.origin.asked(rest)) == 1
