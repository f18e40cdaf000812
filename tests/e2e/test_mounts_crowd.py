"""Many clients of a mount at once: one question to the origin where one answer serves all, and right ones for each."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness.exchange import Gate
from tests.harness.origin import Lines, Question, Say, Tree, listen, say, tree
from tests.harness.server import Settings
from tests.harness.waiting import eventually

CLIENTS = 50
ETAG = ("ETag", '"a"')
NOBODY: list[Lines] = [()] * CLIENTS
KIB64 = 64 * 1024
BIG = b"0123456789abcdef" * 40_000
MOUNTS: Settings = {"keys": {"pass_credentials": True}, "honour": {"reload": "honour"}}
POOL = {"upstream_connections": 60, "upstream_connections_per_host": 60}
SETTINGS: Settings = {"freshness": {"stale_if_error": "2h"}, "limits": POOL}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    """One proxy that these tests share."""
    with tree(tmp_path_factory.mktemp("mounts"), MOUNTS, SETTINGS) as made:
        yield made


def kept(here: Tree, *steps: Say) -> str:
    """A path whose first answer is kept."""
    rest = here.place(*steps)
    assert here.get(rest).whole
    here.settle(rest)
    return rest


# --- one for all


@pytest.mark.parametrize("control", ["max-age=5000", "max-age=0", "no-cache", None])
@pytest.mark.parametrize("body", [b"", b"small", BIG], ids=len)
def test_a_crowd_on_a_cold_url(here: Tree, control: str | None, body: bytes) -> None:
    """One question. Where its answer is for nobody who asked after it was made, one more: by one of them, for all."""
    gate = Gate()
    rest = here.place(say(body, control, held=gate))
    answers = here.crowd(rest, NOBODY, gate)
    assert {(told.status, told.body, told.whole) for told in answers} == {(200, body, True)}
    questions = len(here.origin.asked(rest))
    assert questions == 1 or (questions == 2 and control != "max-age=5000")
    assert Counter("collapsed" in told.cache for told in answers) == {True: CLIENTS - questions, False: questions}


@pytest.mark.parametrize("control", ["max-age=5000", "max-age=0", "no-cache"])
def test_a_crowd_on_a_stale_url(here: Tree, control: str) -> None:
    """One question whether it still holds, and one more where that has to be asked by each."""
    gate = Gate()
    rest = kept(here, say("body", "max-age=0", ETAG), say("", control, ETAG, status=304, held=gate))
    answers = here.crowd(rest, NOBODY, gate)
    assert {(told.status, told.body, told.whole) for told in answers} == {(200, b"body", True)}
    asked = [each.header("if-none-match") for each in here.origin.asked(rest)]
    assert asked in ([None, '"a"'], [None, '"a"', '"a"'][: 2 if control == "max-age=5000" else 3])


def test_a_crowd_on_a_stale_url_that_changed(here: Tree) -> None:
    """One question, and the new body for all."""
    gate = Gate()
    rest = kept(here, say("old", "max-age=0", ETAG), say(BIG, "max-age=5000", held=gate))
    assert {told.body for told in here.crowd(rest, NOBODY, gate)} == {BIG}
    assert len(here.origin.asked(rest)) == 2


def test_ranges_and_conditions_in_a_crowd(here: Tree) -> None:
    """Each gets what it asked for of the one body."""
    gate = Gate()
    wishes: list[Lines] = [(), (("Range", "bytes=0-3"),), (("If-None-Match", '"b"'),), (("Range", "bytes=9999999-"),)]
    rest = kept(here, say("old", "max-age=0", ETAG), say(BIG, "max-age=5000", ("ETag", '"b"'), held=gate))
    answers = here.crowd(rest, [*wishes, *wishes], gate)
    assert [told.status for told in answers] == [200, 206, 304, 416] * 2
    assert [told.body for told in answers] == [BIG, BIG[:4], b"", b""] * 2
    assert len(here.origin.asked(rest)) == 2


def test_who_comes_while_the_body_is_on_its_way(here: Tree) -> None:
    """What is fresh for him he follows, and is told its age; what is not he asks for himself."""
    for control, asked in (("max-age=5000", 1), ("max-age=0", 2)):
        gate = Gate()
        rest = here.place(say(BIG, control, pause_after=200_000, gate=gate), say(BIG, control))
        with here.send(rest) as first:
            assert gate.reached.wait(20)
            with here.send(rest) as late:
                assert late.recv(1, socket.MSG_PEEK) == b"H"
                assert len(here.origin.asked(rest)) == asked
                gate.open()
                told = listen(late, "GET")
            assert (listen(first, "GET").body, told.body) == (BIG, BIG)
        assert (told.header("age") is not None, "collapsed" in told.cache) == (asked == 1, asked == 1)


# --- never another's


@pytest.mark.parametrize("control", ["no-store", "private"])
def test_a_crowd_on_what_is_nobody_elses(here: Tree, control: str) -> None:
    """Each his own; after the first head all at once, not one after the other."""
    gate, together = Gate(), Gate()
    seen: list[int] = []
    lock = threading.Lock()

    def own(question: Question) -> Say:
        with lock:
            number = len(seen)
            seen.append(number)
        if number == CLIENTS - 1:
            together.open()
        return say(str(number), control, held=gate if number == 0 else together)

    rest = here.place(own)
    answers = here.crowd(rest, NOBODY, gate)
    assert sorted(int(told.body) for told in answers) == list(range(CLIENTS))
    assert not any("collapsed" in told.cache for told in answers)


def test_a_crowd_of_two_variants(here: Tree) -> None:
    """The right one for each, one question for each variant."""
    gate = Gate()

    def by_language(question: Question) -> Say:
        return say(f"in {question.header('accept-language')}", "max-age=5000", ("Vary", "Accept-Language"), held=gate)

    rest = here.place(by_language)
    clients: list[Lines] = [(("Accept-Language", "da" if number % 2 else "de"),) for number in range(CLIENTS)]
    answers = here.crowd(rest, clients, gate)
    assert [told.body for told in answers] == [f"in {lines[0][1]}".encode() for lines in clients]
    asked = Counter(each.header("accept-language") for each in here.origin.asked(rest))
    assert asked == {"da": 1, "de": 1}


def test_variants_on_their_way(here: Tree) -> None:
    """Who comes later follows the body of his own variant, also when another one was asked for in between."""
    gate = Gate()

    def by_language(question: Question) -> Say:
        spoken = (question.header("accept-language") or "").encode()
        return say(spoken + BIG, "max-age=5000", ("Vary", "Accept-Language"), pause_after=200_000, gate=gate)

    rest = here.place(by_language)
    languages = ("de", "da", "fr", "da", "de", "fr")
    with ExitStack() as running:
        connections = []
        for language in languages:
            connections.append(running.enter_context(here.send(rest, ("Accept-Language", language))))
            assert connections[-1].recv(1, socket.MSG_PEEK) == b"H"
        gate.open()
        answers = [listen(connection, "GET").body for connection in connections]
    assert answers == [language.encode() + BIG for language in languages]
    assert len(here.origin.asked(rest)) == 3


def test_a_crowd_of_users(here: Tree) -> None:
    """RFC 9111 §3.5: who says who he is gets an answer of his own, unless it is for all."""
    keys = here.on("keys")
    clients: list[Lines] = [(("Authorization", f"Bearer {number}"),) for number in range(10)]
    for control, shared in (("max-age=5000", False), ("max-age=5000, public", True)):
        gate = Gate()

        def who(question: Question, control: str = control, gate: Gate = gate) -> Say:
            return say(question.header("authorization") or "nobody", control, held=gate)

        answers = keys.crowd(keys.place(who), clients, gate)
        mine = [told.body == lines[0][1].encode() for told, lines in zip(answers, clients, strict=True)]
        assert Counter(mine) == ({True: 1, False: 9} if shared else {True: 10})


def test_users_and_nobody_in_a_crowd(here: Tree) -> None:
    """The answer for all is not that for somebody, and the reverse."""
    keys = here.on("keys")
    gate = Gate()

    def who(question: Question) -> Say:
        return say(question.header("authorization") or "nobody", "max-age=5000", held=gate)

    clients: list[Lines] = [(), (("Authorization", "Bearer 1"),)] * 10
    answers = keys.crowd(keys.place(who), clients, gate)
    assert [told.body for told in answers] == [b"nobody", b"Bearer 1"] * 10


def test_who_wants_newer_than_what_is_on_its_way(here: Tree) -> None:
    """A no-cache that comes after the question was made is a question of its own."""
    there = here.on("honour")
    gate = Gate()
    rest = there.place(say("first", "max-age=5000", held=gate), say("second", "max-age=5000"))
    with there.send(rest) as first:
        assert gate.reached.wait(20)
        with there.send(rest, ("Cache-Control", "no-cache")) as second, there.send(rest) as third:
            there.taken_up()
            gate.open()
            assert listen(first, "GET").body == b"first"
            assert listen(second, "GET").body == b"second"
            assert listen(third, "GET").body in (b"first", b"second")
    assert len(there.origin.asked(rest)) == 2


# --- who leaves, what fails


def test_the_first_leaves_at_once(here: Tree) -> None:
    """The others get theirs, by his question."""
    gate = Gate()
    rest = here.place(say(BIG, "max-age=5000", held=gate))
    with ExitStack() as running:
        first = here.send(rest)
        assert gate.reached.wait(20)
        others = [running.enter_context(here.send(rest)) for _ in range(10)]
        here.await_waiters(10)
        first.close()
        here.taken_up()
        gate.open()
        assert {listen(each, "GET").body for each in others} == {BIG}
    assert len(here.origin.asked(rest)) == 1


def test_all_leave(here: Tree) -> None:
    """What may be kept is, what may not ends: its connection is closed."""
    for control, ends in (("max-age=5000", "kept"), ("no-store", "closed")):
        gate = Gate()
        rest = here.place(say(BIG * 20, control, pause_after=200_000, gate=gate))
        connections = [here.send(rest)]
        assert gate.reached.wait(20)
        if ends == "kept":
            connections += [here.send(rest) for _ in range(5)]
            here.taken_up()
        for each in connections:
            each.close()
        gate.open()
        here.idle()
        assert here.get(rest, ("Cache-Control", "only-if-cached")).hit is (ends == "kept")


def test_one_leaves_before_his_head(here: Tree) -> None:
    """Of what may not be kept: the answer finds nobody, and its connection is closed or given back."""
    for _ in range(15):
        gate = Gate()
        rest = here.place(say(BIG * 20, "no-store", held=gate))
        connection = here.send(rest)
        assert gate.reached.wait(20)
        connection.close()
        gate.open()
    here.idle()
    eventually(lambda: here.origin.busy == 0, "nobody leaves a connection hanging")
    assert here.get(here.place(say("ok", "no-store"))).body == b"ok"


def test_a_crowd_before_a_head_that_never_comes(here: Tree) -> None:
    """One failure for all: those who wait do not try again, one by one."""
    gate = Gate()
    rest = here.place(Say(status=0, held=gate))
    answers = here.crowd(rest, NOBODY, gate)
    assert {told.status for told in answers} == {503}
    assert len(here.origin.asked(rest)) <= 3


FAILURES = [
    pytest.param(Say(status=0), 3, id="no-head"),
    pytest.param(say("trouble", None, status=503), 1, id="503"),
    pytest.param(say(BIG, "max-age=5000", stop_after=1000), 1, id="early"),
]


@pytest.mark.parametrize(("failure", "most"), FAILURES)
def test_a_crowd_on_a_stale_url_whose_origin_fails(here: Tree, failure: Say, most: int) -> None:
    """What is here for all, and an origin in trouble is asked once, not fifty times."""
    gate = Gate()
    held = Say(**{name: getattr(failure, name) for name in failure.__slots__} | {"held": gate})
    rest = kept(here, say("old", "max-age=0", ETAG), held)
    answers = here.crowd(rest, NOBODY, gate)
    assert {(told.status, told.body) for told in answers} == {(200, b"old")}
    assert len(here.origin.asked(rest)) <= 1 + most


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("size", [0, 1000, KIB64 - 1])
def test_a_body_that_fails_early(here: Tree, size: int, framing: str) -> None:
    """In its first 64 KiB: no head has gone out, so everybody gets a 503."""
    gate = Gate()
    rest = here.place(say(BIG, "max-age=5000", held=gate, stop_after=size, framing=framing))
    answers = here.crowd(rest, NOBODY[:10], gate)
    assert {told.status for told in answers} == {503}
    here.idle()
    assert not here.kept(rest)


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("size", [300_000, len(BIG) - 1])
def test_a_body_that_fails_late(here: Tree, size: int, framing: str) -> None:
    """Everybody is cut, nobody sees a whole body, nothing is kept; the next one is."""
    gate = Gate()
    late = say(BIG, "max-age=5000", pause_after=size, gate=gate, stop_after=size, framing=framing)
    rest = here.place(late, say(BIG, "max-age=5000"))
    with ExitStack() as running:
        connections = [running.enter_context(here.send(rest)) for _ in range(10)]
        for connection in connections:
            assert connection.recv(1, socket.MSG_PEEK) == b"H"
        gate.open()
        answers = [listen(connection, "GET") for connection in connections]
    assert {(told.status, told.whole) for told in answers} == {(200, False)}
    assert all(BIG.startswith(told.body) for told in answers)
    here.idle()
    assert not here.kept(rest)
    assert len(here.origin.asked(rest)) == 1
    assert here.get(rest).body == BIG


def test_a_body_that_goes_on_where_it_broke(here: Tree) -> None:
    """With a strong ETag the rest is asked for, and nobody notices."""

    def rest_of(question: Question) -> Say:
        start = int((question.header("range") or "").removeprefix("bytes=").removesuffix("-"))
        assert question.header("if-range") == '"a"'
        part = f"bytes {start}-{len(BIG) - 1}/{len(BIG)}"
        return say(BIG[start:], "max-age=5000", ETAG, ("Content-Range", part), status=206)

    gate = Gate()
    rest = here.place(say(BIG, "max-age=5000", ETAG, held=gate, stop_after=300_000), rest_of)
    assert {told.body for told in here.crowd(rest, NOBODY[:10], gate)} == {BIG}
    assert here.hit(rest).body == BIG
    assert len(here.origin.asked(rest)) == 2


def test_so_many_may_wait(tmp_path: Path) -> None:
    """``limits.waiters``: the next one gets a 503 and when to come again, and the origin is left alone."""
    with tree(tmp_path, settings={"limits": {"waiters": 5}}) as made:
        gate = Gate()
        rest = made.place(say("body", "max-age=5000", held=gate))
        answers = made.crowd(rest, NOBODY[:8], gate, waiting=4)
        assert Counter(told.status for told in answers) == {200: 5, 503: 3}
        assert {told.header("retry-after") for told in answers if told.status == 503} == {"2"}
        assert len(made.origin.asked(rest)) == 1
        made.idle()


def test_a_stop_in_the_middle(tmp_path: Path) -> None:
    """SIGTERM with a look, a fill, a relay and a refresh under way: it ends, clients are cut, no fault is logged."""
    settings = {"server": {"drain": "1s"}, "freshness": {"stale_while_revalidate": "1h"}}
    with tree(tmp_path, settings=settings) as made:
        stale = kept(made, say("old", "max-age=1", ("Age", "10")), say("new", None, held=Gate()))
        made.get(stale)
        made.origin.await_asked(stale, 2)
        gates = [Gate(), Gate(), Gate()]
        places = [
            made.place(say("never", None, held=gates[0])),
            made.place(say(BIG, "max-age=5000", pause_after=200_000, gate=gates[1])),
            made.place(say(BIG, "no-store", pause_after=200_000, gate=gates[2])),
        ]
        with ExitStack() as running:
            connections = [running.enter_context(made.send(rest)) for rest in (*places, places[0])]
            for gate in gates:
                assert gate.reached.wait(20)
            made.taken_up()
            assert made.proxy.terminate() == 0
            assert not any(listen(connection, "GET").whole for connection in connections[1:3])
        assert "Traceback" not in made.proxy.stderr
        assert "never retrieved" not in made.proxy.stderr


def test_nothing_is_left_open(here: Tree) -> None:
    """After all of the above: no look, no fill, no waiter, no spool, no connection in use."""
    here.idle()
    eventually(lambda: here.origin.busy == 0, "no answer is under way")
    assert here.proxy.spooled() == []
    assert here.scraped().sum("pipcacheproxy_waiters_most", what="raw") == 0
    assert "Traceback" not in here.proxy.stderr
    assert "never retrieved" not in here.proxy.stderr
