"""A client that asks a mount again the moment it has its answer: the row of that answer may not be committed yet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.origin import Lines, Question, Say, Told, Tree, listen, request, say, tree

# One of them might be lucky.
TURNS = 5


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    """A proxy with one mount."""
    directory: Path = tmp_path_factory.mktemp("at-once")
    with tree(directory) as running:
        yield running


def asked(here: Tree, rest: str, *requests: Lines) -> list[Told]:
    """GETs on one connection, each as soon as the one before is answered."""
    told = []
    with here.connect() as connection:
        for lines in requests:
            connection.sendall(request("GET", here.path(rest), lines))
            told.append(listen(connection, "GET"))
    return told


def test_a_validator_is_used_at_once(here: Tree) -> None:
    """RFC 9111 §4.3.1: the second request is conditional, and its 304 is answered from the body that just came."""

    def answer(question: Question) -> Say:
        fields = (("ETag", '"a"'), ("Cache-Control", "no-cache"))
        return Say(304, fields) if question.header("if-none-match") == '"a"' else Say(lines=fields, body=b"whole")

    for _ in range(TURNS):
        rest = here.place(answer)
        told = asked(here, rest, (), ())
        assert [(each.status, each.body) for each in told] == [(200, b"whole")] * 2
        assert [each.header("if-none-match") for each in here.origin.asked(rest)] == [None, '"a"']


def test_a_range_is_cut_from_the_body_at_once(here: Tree) -> None:
    """RFC 9111 §3.3, RFC 9110 §14.2: the whole is here, so nobody is asked for a part."""
    for _ in range(TURNS):
        rest = here.place(say("0123456789", "max-age=60"))
        told = asked(here, rest, (), (("Range", "bytes=2-4"),))
        assert [(each.status, each.body) for each in told] == [(200, b"0123456789"), (206, b"234")]
        assert len(here.origin.asked(rest)) == 1
