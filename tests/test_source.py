"""Bodies that break in their middle: gone on with by Range, or cut, and never made of two different ones."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from proxy import source as source_module
from proxy.errors import UpstreamFailed, WrongBody
from proxy.fill import HOLD_BACK
from proxy.follower import Follower
from proxy.replies import Reply
from proxy.source import PROGRESS
from tests.harness.behaviours import Answer, Behaviour, hang_up, polite
from tests.harness.bodies import Generated, whole
from tests.harness.exchange import Exchange, Gate
from tests.harness.packages import Distribution, blob
from tests.harness.upstream import Upstream
from tests.keeping import files_in
from tests.test_fill import BIG, PATH, House, followed, house_in, judge, until

SIZE = len(BIG)
BROKE_AT = 300_000
ETAG = '"' + blob("six", size=SIZE).sha256[:32] + '"'


@pytest.fixture
async def house(tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    """A house whose upstream has BIG, with ETag and ranges; pauses are short."""
    monkeypatch.setattr(source_module, "_PAUSE", (0.0, 0.01))
    upstream.index.add(publish(BIG))
    async with house_in(tmp_path / "cache", upstream) as made:
        yield made


def publish(body: bytes) -> Distribution:
    """That body under PATH."""
    made = blob("six", size=len(body))
    assert whole(made.body) == body
    return replace(made, filename=PATH.rpartition("/")[2])


def breaks(gate: Gate, at: int = BROKE_AT, **changes: Any) -> Answer:
    """The right head and ``at`` bytes, then, once the gate opens, the end of the connection."""
    return Answer(stall_after=at, stop_after=at, gate=gate, **({"ending": "reset"} | changes))


def ranges(house: House) -> list[tuple[str | None, str | None]]:
    """Range and If-Range of every request for the file."""
    return [(each.headers.get("range"), each.headers.get("if-range")) for each in house.upstream.asked(PATH)]


async def broken(house: House, *then: Behaviour, first: dict[str, Any] | None = None, **plan: Any) -> Follower:
    """A follower of a body that has broken at BROKE_AT, when all of that had been taken; ``then`` comes next."""
    gate = Gate()
    house.says(breaks(gate, **(first or {})), *then)
    follower = house.join(house.plan(**plan))
    await until(lambda: follower.fill._received == BROKE_AT)
    gate.open()
    return follower


def honest(exchange: Exchange) -> None:
    """As the index would have said it."""
    polite(exchange)


def chunked(exchange: Exchange) -> None:
    """The same, in chunks."""
    Answer(framing="chunked")(exchange)


def all_of_it(exchange: Exchange) -> None:
    """A server that knows no ranges."""
    Answer(status=200, body=BIG, without=("Content-Range",))(exchange)


def some_of_it(exchange: Exchange) -> None:
    """A server that gives less than it was asked for."""
    span = f"bytes {BROKE_AT}-{BROKE_AT + 49_999}/{SIZE}"
    Answer(status=206, body=BIG[BROKE_AT : BROKE_AT + 50_000], headers={"Content-Range": span})(exchange)


# --- bodies that go on


# Of "close" without a listed size, end and cut are the same: the hash tells, which test_fill.py has.
BREAKS = [(framing, ending, True) for framing in ("length", "chunked", "close") for ending in ("close", "reset")]
BREAKS += [(framing, ending, False) for framing, ending, _ in BREAKS if framing != "close"]


@pytest.mark.parametrize(("framing", "ending", "listed"), BREAKS)
@pytest.mark.parametrize("rest", [honest, chunked, all_of_it], ids=["206", "206 chunked", "200"])
async def test_a_pinned_body_goes_on(house: House, framing: Any, ending: Any, listed: bool, rest: Behaviour) -> None:
    """However it was framed and however it broke: its rest is asked for once, its hash proves all of it."""
    follower = await broken(house, rest, first={"framing": framing, "ending": ending}, size=SIZE if listed else None)
    assert await followed(follower) == BIG
    await house.over(follower)
    assert await house.stored() == BIG
    assert ranges(house) == [(None, None), (f"bytes={BROKE_AT}-", None)]


async def test_followers_do_not_notice(house: House) -> None:
    """Who read before it broke reads on; who comes between break and rest joins the same fill."""
    gate = Gate()
    house.says(breaks(gate), Answer(held=(held := Gate())))
    first = house.join(house.plan())
    got = bytearray()
    reading = asyncio.create_task(followed(first, got=got))
    await until(lambda: len(got) == BROKE_AT - HOLD_BACK)
    gate.open()
    assert await asyncio.to_thread(held.reached.wait, 20)
    second, joined = house.fills.join(house.plan())
    assert joined
    held.open()
    assert [await reading, await followed(second)] == [BIG, BIG]
    assert len(ranges(house)) == 2


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_body_with_a_strong_etag_goes_on(house: House, framing: Any) -> None:
    """Without a listed hash the ETag proves part for part that it is the same body (RFC 9110 §13.1.5)."""
    follower = await broken(house, honest, first={"framing": framing}, hashes={})
    assert await followed(follower) == BIG
    await house.over(follower)
    entry = await house.store.entry("wheels", "file|test|six")
    assert entry is not None
    assert (entry.size, entry.verified) == (SIZE, False)
    assert ranges(house) == [(None, None), (f"bytes={BROKE_AT}-", ETAG)]


async def test_less_than_asked_for(house: House) -> None:
    """A server may send a part of what was asked for; the rest of that is asked for again."""
    follower = await broken(house, some_of_it, honest)
    assert await followed(follower) == BIG
    assert [each for each, _ in ranges(house)] == [None, f"bytes={BROKE_AT}-", f"bytes={BROKE_AT + 50_000}-"]


async def test_it_breaks_before_the_first_byte(house: House) -> None:
    """A head alone is a beginning, too."""
    house.says(Answer(stop_after=0, ending="reset"), honest)
    assert await house.get(house.plan()) == BIG
    assert [each for each, _ in ranges(house)] == [None, "bytes=0-"]


async def test_all_of_it_but_the_end_of_its_framing(house: House) -> None:
    """Every byte is there and the hash is right: nothing is missing that anybody would need."""
    house.says(breaks(gate := Gate(), SIZE, framing="chunked"))
    follower = house.join(house.plan(size=SIZE))
    await until(lambda: follower.fill._received == SIZE)
    gate.open()
    assert await followed(follower) == BIG
    await house.over(follower)
    assert await house.stored() == BIG
    assert ranges(house) == [(None, None)]


async def test_a_stalled_body_goes_on(tmp_path: Path, upstream: Upstream) -> None:
    """Silence is a break as well; the connection it happened on is closed before another is asked for."""
    upstream.index.add(publish(BIG))
    async with house_in(tmp_path / "cache", upstream, idle=0.3, pool=1) as house:
        house.says(Answer(stall_after=BROKE_AT, gate=Gate()), honest)
        assert await house.get(house.plan()) == BIG
        assert [each for each, _ in ranges(house)] == [None, f"bytes={BROKE_AT}-"]


async def test_progress_renews_the_budget(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of breaks, if a mebibyte comes between two; each byte is asked for about once."""
    body = whole(Generated(9 * PROGRESS))
    house.upstream.index.distributions = [publish(body)]
    gates = [Gate() for _ in range(5)]
    house.says(*(breaks(gate, PROGRESS + 1000) for gate in gates), honest)
    follower = house.join(house.plan(body))
    fill = follower.fill
    for number, gate in enumerate(gates, 1):
        await until(partial(lambda upto: fill._received == upto, number * (PROGRESS + 1000)))
        gate.open()
    assert await followed(follower) == body
    assert len(ranges(house)) == 6
    assert sum(each.sent for each in house.upstream.asked(PATH)) == len(body)


# --- bodies that do not


async def test_the_budget(house: House) -> None:
    """Twice in a row without progress is enough: the followers are cut, and the URL does not rest."""
    follower = await broken(house, Answer(stop_after=0), hang_up)
    got = bytearray()
    with pytest.raises(UpstreamFailed) as caught:
        await followed(follower, got=got)
    assert not isinstance(caught.value, WrongBody)
    assert (caught.value.status, caught.value.retry_after) == (503, 2)
    assert bytes(got) == BIG[: BROKE_AT - HOLD_BACK]
    await house.over(follower)
    assert await house.stored() is None
    assert [each for each, _ in ranges(house)] == [None, *[f"bytes={BROKE_AT}-"] * 2]
    house.says()
    assert await house.get(house.plan()) == BIG
    assert house.asked()[-1] is None


async def test_a_body_that_says_it_is_whole(house: House) -> None:
    """Shorter than listed, and ended in good order: it did not break, it is a wrong one."""
    house.says(Answer(body=BIG[:-1], framing="chunked"))
    with pytest.raises(WrongBody, match="ended early"):
        await house.get(house.plan(size=SIZE))
    assert len(ranges(house)) == 1


def part(start: int = BROKE_AT, size: str = str(SIZE), **changes: Any) -> Answer:
    """A 206 that says it begins there, and is otherwise right."""
    headers = {"Content-Range": f"bytes {start}-{SIZE - 1}/{size}"} | changes.pop("headers", {})
    return Answer(status=206, body=BIG[start:], headers=headers, **changes)


NO_REST: dict[str, Behaviour] = {
    "earlier": part(BROKE_AT - 1),
    "later": part(BROKE_AT + 1),
    "another size": part(size=str(SIZE + 1)),
    "any size": part(size="*"),
    "no Content-Range": Answer(status=206, without=("Content-Range",)),
    "a span that lies": part(headers={"Content-Range": f"bytes {BROKE_AT}-{SIZE - 2}/{SIZE}"}),
    "200 of another size": Answer(status=200, body=BIG + b"x", without=("Content-Range",)),
    "404": Answer(status=404, body=b""),
    "416": Answer(status=416, body=b""),
    "503": Answer(status=503, body=b""),
}
NO_REST_BY_ETAG: dict[str, Behaviour] = NO_REST | {
    "200": all_of_it,
    "another etag": Answer(headers={"ETag": '"other"'}),
    "no etag": Answer(without=("ETag",)),
    "weak etag": Answer(headers={"ETag": f"W/{ETAG}"}),
    "another coding": part(headers={"Content-Encoding": "gzip"}),
}


@pytest.mark.parametrize(
    ("name", "pinned"), [*((name, True) for name in NO_REST), *((name, False) for name in NO_REST_BY_ETAG)]
)
async def test_what_is_not_the_rest(house: House, name: str, pinned: bool) -> None:
    """It is not taken, nor asked for again: cut at what was right, nothing kept, the next one begins anew."""
    follower = await broken(house, NO_REST_BY_ETAG[name], **({} if pinned else {"hashes": {}}))
    got = bytearray()
    with pytest.raises(UpstreamFailed) as caught:
        await followed(follower, got=got)
    assert not isinstance(caught.value, WrongBody)
    assert (caught.value.because, caught.value.upstream_status) == ("the body was cut", 200)
    assert bytes(got) == BIG[: BROKE_AT - HOLD_BACK]
    await house.over(follower)
    assert await house.stored() is None
    assert len(ranges(house)) == 2


@pytest.mark.parametrize(
    ("first", "plan"),
    [
        ({"headers": {"Accept-Ranges": "none"}}, {}),
        ({"headers": {"Accept-Ranges": "None"}}, {"hashes": {}}),
        ({"without": ("ETag",)}, {"hashes": {}}),
        ({"headers": {"ETag": f"W/{ETAG}"}}, {"hashes": {"crc32": "0"}}),
        ({}, {"keep": None}),
        ({}, {"pool": "page"}),
    ],
    ids=["no ranges", "no ranges by etag", "no etag", "weak etag", "relay", "page"],
)
async def test_what_is_not_asked_on_for(house: House, first: dict[str, Any], plan: dict[str, Any]) -> None:
    """Nothing would prove the parts to be of one body, the server said that it has none, or nobody keeps it."""
    follower = await broken(house, honest, first=first, **plan)
    with pytest.raises(UpstreamFailed, match="the body was cut"):
        await followed(follower)
    assert len(ranges(house)) == 1


@pytest.mark.parametrize("size", [None, SIZE], ids=["no-size", "size"])
async def test_parts_of_two_bodies(house: House, size: int | None) -> None:
    """A rest of other bytes is a wrong body like any other: the last 64 KiB stay here, the next one asks past
    caches."""
    follower = await broken(house, Answer(corrupt=5), polite, size=size)
    got = bytearray()
    with pytest.raises(WrongBody):
        await followed(follower, got=got)
    assert len(got) <= SIZE - HOLD_BACK
    await house.over(follower)
    assert await house.stored() is None
    assert await house.get(house.plan()) == BIG
    assert house.asked() == [None, None, "no-cache"]


@pytest.mark.parametrize("hashes", [{}, None], ids=["etag", "hash"])
async def test_a_rest_that_is_longer_than_it_says(house: House, hashes: dict[str, str] | None) -> None:
    """In chunks, after a beginning of unknown length: what the 206 says of the size is the limit from then on."""
    span = {"Content-Range": f"bytes {BROKE_AT}-{SIZE - 1}/{SIZE}"}
    longer = Answer(status=206, body=BIG[BROKE_AT:] + b"x", framing="chunked", headers=span)
    plan = {} if hashes is None else {"hashes": hashes}
    follower = await broken(house, longer, first={"framing": "chunked"}, **plan)
    with pytest.raises(WrongBody, match="longer"):
        await followed(follower)
    await house.over(follower)
    assert await house.stored() is None


async def test_a_rest_that_ends_early_is_not_the_end(house: House) -> None:
    """Of a body of unknown length only the 206 says how long it is: its parts end, and the body is not whole."""
    follower = await broken(house, some_of_it, hang_up, first={"framing": "chunked"}, hashes={})
    with pytest.raises(UpstreamFailed) as caught:
        await followed(follower)
    assert not isinstance(caught.value, WrongBody)
    await house.over(follower)
    assert await house.stored() is None


async def test_a_rest_beyond_the_limit(house: House) -> None:
    """What a 206 says of the size does not set the limit of a body whose size nobody listed."""
    follower = await broken(house, honest, first={"framing": "chunked"}, limit=SIZE - 1)
    with pytest.raises(UpstreamFailed, match="the body was cut"):
        await followed(follower)


@pytest.mark.parametrize("moment", ["pause", "head", "body"])
async def test_close_while_it_goes_on(house: House, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shutdown does not wait for the rest, whatever it is about."""
    gate = Gate()
    if moment == "pause":
        monkeypatch.setattr(source_module, "_PAUSE", (3600.0, 3600.0))
    rest = Answer(held=gate) if moment == "head" else Answer(stall_after=0, gate=gate)
    follower = await broken(house, rest)
    if moment == "pause":
        await until(lambda: house.upstream.asked(PATH)[0].done)
    else:
        assert await asyncio.to_thread(gate.reached.wait, 20)
    async with asyncio.timeout(10):
        await house.fills.close()
    with pytest.raises(UpstreamFailed, match="shutting down"):
        await followed(follower)
    await house.over(follower)
    gate.open()


async def test_the_rest_on_another_disk(house: House) -> None:
    """The cache's disk fills up in the rest: that goes where temporary files go, followers read across."""
    follower = await broken(house, Answer(held=(held := Gate())))
    assert await asyncio.to_thread(held.reached.wait, 20)
    # From here on the spool can only be read: writes to it fail as those to a broken disk do.
    incoming = house.store.directory / "incoming"
    (name,) = files_in(incoming)
    os.dup2(read_only := os.open(incoming / name, os.O_RDONLY), follower.fill._segments.files[0][1].fileno())
    os.close(read_only)
    held.open()
    assert await followed(follower) == BIG
    assert not follower.fill.keeps


async def test_the_judge_sees_a_200_of_the_rest(house: House) -> None:
    """A login page in its place is no rest, although its status and its length would do."""

    def strict(reply: Reply) -> tuple[int, int | None]:
        if reply.head.header("Content-Type") == "text/html":
            raise UpstreamFailed("a page")
        return judge(reply)

    portal = Answer(status=200, body=BIG, headers={"Content-Type": "text/html"}, without=("Content-Range",))
    follower = await broken(house, portal, judge=strict)
    with pytest.raises(UpstreamFailed, match="the body was cut"):
        await followed(follower)
