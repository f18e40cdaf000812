"""The hot tier's memory: what it gives up is gone, whoever still knows of it."""

from __future__ import annotations

import gc
import itertools
import time
import weakref
from functools import partial

from proxy.answer import Answer, Lasting
from proxy.core.messages import CacheStatus
from proxy.events import Event
from proxy.web.forwarded import Front
from proxy.web.hot import HotTier
from proxy.web.lane import Lane, question_of

NOW = 1_800_000_000.0


class Page:
    """What an answer is made of."""

    def __init__(self, body: bytes) -> None:
        self.body = body


def lasting(page: Page, row: str = "page") -> Lasting:
    """An answer that is right for ever, as long as its row is."""

    def again() -> tuple[Answer, float]:
        return Answer(200, (), page.body, CacheStatus("hit", "fresh"), stop=len(page.body)), float("inf")

    return Lasting((("responses", row),), again)


def hit(path: str) -> Event:
    """What is told of it."""
    return Event("GET", path, "hit", "fresh", 200, 0, 0.001)


class Client:
    """A connection that asks in the same words again and again."""

    peer, trusted = "192.0.2.1", False

    def __init__(self, lane: Lane) -> None:
        self.question: object = None
        self.before = 0
        self.sent: list[bytes] = []
        self._lane = lane

    def ask(self, data: bytes) -> bool:
        """Whether it had an answer at once."""
        return self._lane.answered(self, data)  # type: ignore[arg-type]  # its questions are any object's

    def send(self, first: bytes, rest: bytes) -> None:
        """What it got."""
        self.sent.append(first + rest)


def request(path: str, number: int = 0) -> bytes:
    """Of a client that counts its requests."""
    return f"GET {path} HTTP/1.1\r\nHost: x\r\nX-Request-Id: {number}\r\n\r\n".encode()


def warmed(lane: Lane, tier: HotTier, made: Lasting, path: str, row: str = "page") -> Client:
    """A client that has had an answer, in the same words, by the bytes of its request."""
    client, data = Client(lane), request(path)
    question = question_of(data)
    assert question is not None
    tier.take(question, made, hit(path), NOW)
    assert all(client.ask(data) for _ in range(3))
    assert data in tier.verbatim
    return client


def test_what_changed_is_not_held_by_those_who_asked_for_it() -> None:
    """Every version of a large page would be kept for the words in which it was asked for."""
    tier = HotTier(2**20, ())
    lane = Lane(tier, Front())
    page = Page(bytes(50_000))
    client = warmed(lane, tier, lasting(page), "/simple/six/")
    assert client.sent[-1].endswith(page.body)
    held = weakref.ref(page)
    del page, client.sent[:]
    tier.changed("responses", "page")
    gc.collect()
    assert held() is None
    assert not tier.verbatim
    assert (len(tier), tier.bytes) == (0, 0)
    assert not client.ask(request("/simple/six/"))


def test_words_are_counted_and_few() -> None:
    """Whoever asks twice in each of a thousand spellings takes no more room than sixteen, and gets every answer."""
    tier = HotTier(2**20, ())
    lane = Lane(tier, Front())
    client = warmed(lane, tier, lasting(Page(b"page")), "/simple/six/")
    before = len(client.sent)
    for number in range(1000):
        assert all(client.ask(request("/simple/six/", number)) for _ in range(2))
    assert len(client.sent) == before + 2000
    assert len(tier.verbatim) == 16
    assert tier.bytes < 16 * 400 + 4096
    tier.changed(None, None)
    assert (len(tier.verbatim), tier.bytes) == (0, 0)


def test_an_answer_is_given_before_there_is_no_room_for_its_words() -> None:
    """The words may push out the very answer that they ask for; that one was given, and is found no more."""
    tier = HotTier(20_000, ())
    lane = Lane(tier, Front())
    client = Client(lane)
    long = f"GET /simple/six/ HTTP/1.1\r\nHost: x\r\nX-Long: {'x' * 3000}\r\n\r\n".encode()
    for number in range(20):
        data = long.replace(b"X-Long: ", f"X-Long: {number}".encode())
        question = question_of(data)
        assert question is not None
        tier.take(question, lasting(Page(b"page")), hit("/simple/six/"), NOW)
        assert client.ask(data)
        assert client.ask(data)
        assert all(sent.endswith(b"page") for sent in client.sent)
        assert tier.bytes <= 20_000


def test_an_answer_that_is_made_larger_pushes_out_others_or_itself() -> None:
    """It is made when it is asked for; one that then is too large is given the normal way."""
    tier = HotTier(80_000, ())
    lane = Lane(tier, Front())
    first = warmed(lane, tier, lasting(Page(b"page")), "/simple/first/", "first")
    for number in range(16):
        warmed(lane, tier, lasting(Page(bytes(1500))), f"/simple/{number}/", f"{number}")
    assert tier.bytes <= 80_000
    client = Client(lane)
    data = request("/simple/large/")
    question = question_of(data)
    assert question is not None
    tier.take(question, lasting(Page(bytes(20_000)), "large"), hit("/simple/large/"), NOW)
    assert not client.ask(data)
    assert not first.ask(request("/simple/first/"))
    assert client.sent == []


def test_an_answer_whose_own_words_leave_no_room_for_it() -> None:
    """Nobody is sent nothing."""
    now = time.time()
    sizes = itertools.chain([10], itertools.repeat(2400))
    tier = HotTier(36_000, ())
    lane = Lane(tier, Front())

    def again() -> tuple[Answer, float]:
        body = bytes(next(sizes))
        return Answer(200, (), body, CacheStatus("hit", "fresh"), stop=len(body)), now + 0.2

    client = Client(lane)
    long = f"GET /simple/six/ HTTP/1.1\r\nHost: x\r\nX-Long: {'x' * 1850}\r\n\r\n"
    datas = [long.replace("X-Long: ", f"X-Long: {number:02}").encode() for number in range(16)]
    question = question_of(datas[0])
    assert question is not None
    tier.take(question, Lasting((("responses", "six"),), again), hit("/simple/six/"), now)
    for data in datas:
        assert client.ask(data)
        assert client.ask(data)
    time.sleep(0.3)
    assert not client.ask(datas[0])
    assert all(client.sent)
    assert (len(tier), tier.bytes, len(tier.verbatim)) == (0, 0, 0)


def always(answer: Answer) -> tuple[Answer, float]:
    """It, for no time at all."""
    return answer, 0.0


def test_the_date_of_an_answer_that_stays_the_same() -> None:
    """Of the very same answer only our own date is another; what another server dated stays as it is."""
    for fields, dated in (((), True), ((("date", "Thu, 01 Jan 2026 00:00:00 GMT"),), False)):
        answer = Answer(200, fields, b"page", CacheStatus("hit", "fresh"), stop=4)
        tier = HotTier(2**20, ())
        tier.take(("key",), Lasting((), partial(always, answer)), hit("/simple/six/"), NOW)
        wires = []
        for moment in (NOW, NOW + 1, NOW + 86_400):
            hot = tier.find(("key",), moment)
            assert hot is not None
            wires.append(hot.wire)
        assert len(set(wires)) == (3 if dated else 1)
        assert (b"Fri, 15 Jan 2027 08:00:01 GMT" in wires[1]) is dated
        assert len({len(wire) for wire in wires}) == 1
        assert all(wire.endswith(b"\r\n\r\npage") for wire in wires)
