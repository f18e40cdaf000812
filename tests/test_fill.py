"""Bodies on their way: a real store, a real upstream, followers that read while it grows."""

from __future__ import annotations

import asyncio
import hashlib
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy import fill as fill_module
from proxy import fills as fills_module
from proxy import upstream as client_side
from proxy.bodies import Spool
from proxy.calls import Site
from proxy.connections import Budget
from proxy.core.messages import Entry
from proxy.errors import UpstreamFailed, WrongBody
from proxy.fill import HOLD_BACK
from proxy.fills import Fills
from proxy.follower import Follower
from proxy.plan import Completed, Plan, strongest
from proxy.replies import Reply
from proxy.segments import IN_MEMORY
from proxy.store import Store
from tests.harness.behaviours import Answer, Behaviour
from tests.harness.bodies import Generated, whole
from tests.harness.exchange import Gate
from tests.harness.server import ROOT
from tests.harness.upstream import Upstream
from tests.keeping import NAME, TAG, body_of, files_in, open_store

PATH = f"/packages/six/{NAME}"
KEY = "file|test|six"
BIG = whole(Generated(400_000))
SMALL = BIG[:HOLD_BACK]
MIB = 1024 * 1024


class House:
    """A store, fills over it, and an upstream that answers PATH as it is scripted."""

    def __init__(self, store: Store, upstream: Upstream, client: client_side.Upstream, waiters: int) -> None:
        self.store = store
        self.upstream = upstream
        self.fills = Fills(store, client, waiters=waiters)
        self.keeping: Callable[[], Awaitable[None]] | None = None

    def says(self, *answers: Behaviour) -> None:
        """What the upstream answers, in turn."""
        self.upstream.script(PATH, *answers)

    def plan(self, body: bytes = BIG, *, size: int | None = None, name: str = NAME, **changes: Any) -> Plan:
        """A plan for that body, pinned by its sha256 and kept, unless told otherwise."""

        async def keep(spool: Spool, done: Completed) -> None:
            if self.keeping is not None:
                await self.keeping()
            entry = Entry(KEY, TAG, self.url, done.head, "", done.size, done.sha256, done.verified)
            await self.store.adopt("wheels", spool, entry, name)

        options: dict[str, Any] = {"judge": judge, "keep": keep, "size": size, "hashes": {"sha256": sha256(body)}}
        return Plan(KEY, "test", self.url, **(options | changes))

    @property
    def url(self) -> str:
        """Of the file, at the upstream's file host."""
        return f"{self.upstream.files_url}{PATH}"

    def join(self, plan: Plan) -> Follower:
        """A follower, whether or not its fill was under way."""
        return self.fills.join(plan)[0]

    async def get(self, plan: Plan) -> bytes:
        """The whole body, as one follower reads it."""
        return await followed(self.join(plan))

    async def over(self, follower: Follower) -> None:
        """Returns when nothing of its fill is left in incoming/."""
        await until(lambda: follower.fill.settled and not files_in(self.store.directory / "incoming"))

    async def stored(self) -> bytes | None:
        """The body that was kept."""
        return await body_of(self.store, KEY)

    def asked(self) -> list[str | None]:
        """Cache-Control of every request for the file so far."""
        return [each.headers.get("cache-control") for each in self.upstream.asked(PATH)]


def judge(reply: Reply) -> tuple[int, int | None]:
    """Only a 200 is a body."""
    if reply.head.status != 200:
        raise UpstreamFailed("no file", upstream_status=reply.head.status)
    return 0, reply.length


def sha256(body: bytes) -> str:
    """Lower-case hex."""
    return hashlib.sha256(body).hexdigest()


def ok(body: bytes = BIG, **changes: Any) -> Answer:
    """A 200 with that body, perhaps told badly."""
    return Answer(status=200, body=body, **changes)


async def until(condition: Callable[[], object]) -> None:
    """Returns once the condition holds; AssertionError after 20 seconds."""
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("not within 20 s")


async def followed(follower: Follower, offset: int = 0, got: bytearray | None = None) -> bytes:
    """The bytes from ``offset`` to the end; ``got`` grows with them. Closes the follower in every case."""
    got = bytearray() if got is None else got
    try:
        async with asyncio.timeout(20):
            await follower.fill.ready()
            while (piece := await follower.beyond(offset + len(got))) is not None:
                data = os.pread(piece.file.fileno(), piece.count, piece.position)
                assert len(data) == piece.count > 0
                got += data
        return bytes(got)
    finally:
        follower.close()


async def passed(gate: Gate) -> None:
    """Returns when the upstream waits at the gate."""
    assert await asyncio.to_thread(gate.reached.wait, 20)


async def waits(work: Awaitable[object]) -> bool:
    """Whether it is still not done although everybody had time."""
    done, _ = await asyncio.wait([asyncio.ensure_future(work)], timeout=0.05)
    return not done


@asynccontextmanager
async def house_in(
    directory: Path, upstream: Upstream, waiters: int = 100, idle: float = 20.0, pool: int = 20, **limits: int
) -> AsyncIterator[House]:
    """All of it, closed in the order the proxy closes it."""
    async with AsyncExitStack() as rooms:
        store = await open_store(directory, **limits)
        rooms.push_async_callback(store.close)
        budget = Budget(total=20.0, idle=idle, retries=0, pool=pool)
        client = client_side.Upstream([Site("test", upstream.url)], pages=budget, files=budget)
        rooms.push_async_callback(client.close)
        house = House(store, upstream, client, waiters)
        rooms.push_async_callback(house.fills.close)
        yield house


@pytest.fixture
async def house(tmp_path: Path, upstream: Upstream) -> AsyncIterator[House]:
    """A house with roomy limits."""
    async with house_in(tmp_path / "cache", upstream) as made:
        yield made


# --- bodies that are right


@pytest.mark.parametrize("body", [b"", b"x", SMALL, SMALL + b"x", BIG], ids=["empty", "1", "held", "held+1", "big"])
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("listed", [True, False], ids=["size", "no-size"])
async def test_right_bodies(house: House, body: bytes, framing: Any, listed: bool) -> None:
    """Followed to the end, verified by the listed hash however it is framed, kept, nothing left in incoming/."""
    house.says(ok(body, framing=framing))
    follower, joined = house.fills.join(house.plan(body, size=len(body) if listed else None))
    assert not joined
    assert await followed(follower) == body
    await house.over(follower)
    assert await house.stored() == body
    entry = await house.store.entry("wheels", KEY)
    assert entry is not None
    assert (entry.size, entry.sha256, entry.verified) == (len(body), sha256(body), True)
    assert follower.fill.completed is not None
    assert follower.fill.completed.head.status == 200


@pytest.mark.parametrize("name", ["sha256", "sha512", "sha384", "blake2b", "sha3_256", "sha224", "sha1", "md5"])
async def test_every_hash_is_checked(house: House, name: str) -> None:
    """Whatever algorithm the page lists: the right digest is kept as verified, a wrong one is not."""
    house.says(ok())
    digest = hashlib.new(name, BIG).hexdigest()
    follower = house.join(house.plan(hashes={name: digest, "crc32": "0"}))
    assert await followed(follower) == BIG
    await house.over(follower)
    entry = await house.store.entry("wheels", KEY)
    assert entry is not None
    assert (entry.sha256, entry.verified) == (sha256(BIG), True)
    with pytest.raises(WrongBody):
        await house.get(house.plan(hashes={name: digest[::-1]}))


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("hashes", [{}, {"crc32": "0"}])
async def test_without_a_hash_it_is_pinned(house: House, framing: Any, hashes: Mapping[str, str]) -> None:
    """A length or a proper end in chunks proves it whole; what was kept is marked unverified."""
    house.says(ok(framing=framing))
    follower = house.join(house.plan(hashes=hashes))
    assert await followed(follower) == BIG
    await house.over(follower)
    entry = await house.store.entry("wheels", KEY)
    assert entry is not None
    assert (entry.sha256, entry.verified) == (sha256(BIG), False)


async def test_without_hash_and_end_it_is_not_kept(house: House) -> None:
    """A body that ends with its connection may have been cut, and nothing could tell."""
    house.says(ok(framing="close"))
    follower = house.join(house.plan(hashes={}))
    got = bytearray()
    with pytest.raises(WrongBody):
        await followed(follower, got=got)
    assert got == BIG[:-HOLD_BACK]
    await house.over(follower)
    assert await house.stored() is None


async def test_followers_of_a_growing_body(house: House) -> None:
    """They get what is there but for the last 64 KiB; whoever comes later joins; one request for all."""
    gate, sent = Gate(), 300_000
    house.says(ok(stall_after=sent, gate=gate))
    first, joined = house.fills.join(house.plan())
    assert not joined
    got = bytearray()
    reading = asyncio.create_task(followed(first, got=got))
    await passed(gate)
    await until(lambda: len(got) == sent - HOLD_BACK)
    assert await waits(asyncio.shield(reading))
    assert len(got) == sent - HOLD_BACK
    second, joined = house.fills.join(house.plan())
    assert joined
    assert second.fill is first.fill
    late = bytearray()
    reading_late = asyncio.create_task(followed(second, 1000, late))
    await until(lambda: len(late) == sent - HOLD_BACK - 1000)
    gate.open()
    assert await reading == BIG
    assert await reading_late == BIG[1000:]
    assert house.asked() == [None]


async def test_a_small_body_shows_nothing_before_it_is_verified(house: House) -> None:
    """Up to 64 KiB no status line leaves early, so that a failure is a clean 502."""
    gate = Gate()
    house.says(ok(SMALL, stall_after=len(SMALL) - 1, gate=gate))
    follower = house.join(house.plan(SMALL))
    await passed(gate)
    ready = asyncio.create_task(follower.fill.ready())
    assert await waits(asyncio.shield(ready))
    gate.open()
    await ready
    assert follower.fill.completed is not None
    follower.close()


async def test_complete_waits_for_the_verdict(house: House) -> None:
    """A range of a small file waits for the whole; a body with bytes to show is not a complete one."""
    gate = Gate()
    house.says(ok(stall_after=300_000, gate=gate))
    follower = house.join(house.plan())
    await follower.fill.ready()
    completing = asyncio.create_task(follower.fill.complete())
    assert await waits(asyncio.shield(completing))
    gate.open()
    done = await completing
    assert (done.size, done.sha256, done.verified) == (len(BIG), sha256(BIG), True)
    follower.close()


async def test_a_follower_of_a_finished_fill(house: House) -> None:
    """Who joins while the body is being kept reads it from the spool, also after that is gone from incoming/."""
    keeping, go_on = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        keeping.set()
        await go_on.wait()

    house.keeping = wait
    house.says(ok())
    first = house.join(house.plan())
    assert await followed(first) == BIG
    await keeping.wait()
    late, joined = house.fills.join(house.plan())
    assert joined
    assert late.fill.keeps
    go_on.set()
    await house.over(late)
    piece = await late.beyond(0)
    assert piece is not None
    before = piece.file.closed
    assert await followed(late) == BIG
    assert (before, piece.file.closed) == (False, True)
    assert house.asked() == [None]


async def test_a_client_that_leaves_does_not_end_it(house: House) -> None:
    """The fill belongs to nobody: it goes on, is kept, and others never notice."""
    gate = Gate()
    house.says(ok(stall_after=300_000, gate=gate))
    follower = house.join(house.plan())
    reading = asyncio.create_task(followed(follower))
    await passed(gate)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert follower.fill.followers == 0
    gate.open()
    await house.over(follower)
    assert await house.stored() == BIG
    assert house.asked() == [None]


# --- bodies that are wrong


async def test_a_wrong_hash_is_cut_and_rests(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody gets the last 64 KiB, nothing is kept; the second request goes past caches, the third rests."""
    house.says(ok(corrupt=len(BIG) - 1))
    for attempt in (1, 2):
        follower = house.join(house.plan())
        other = house.join(house.plan())
        for each in (follower, other):
            got = bytearray()
            with pytest.raises(WrongBody) as caught:
                await followed(each, got=got)
            assert caught.value.status == 502
            assert bytes(got) == BIG[:-HOLD_BACK][: len(got)]
        await house.over(follower)
        assert await house.stored() is None
        assert house.asked() == [None, "no-cache"][:attempt]
    with pytest.raises(UpstreamFailed) as caught_resting:
        house.join(house.plan())
    assert (caught_resting.value.status, caught_resting.value.retry_after) == (503, 10)
    assert len(house.asked()) == 2
    # A minute later it is asked again, still past caches; the first right body ends that.
    monkeypatch.setattr(fills_module, "REST_AFTER_MISMATCH", 0.0)
    house.says(ok())
    for _ in range(2):
        follower = house.join(house.plan())
        assert await followed(follower) == BIG
        await house.over(follower)
    assert house.asked() == [None, "no-cache", "no-cache", None]


async def test_keys_rest_alone(house: House) -> None:
    """Another file, and this one with another listed hash, are not what was wrong."""
    house.says(ok(corrupt=0))
    for _ in range(2):
        follower = house.join(house.plan())
        with pytest.raises(WrongBody):
            await followed(follower)
        await house.over(follower)
    with pytest.raises(UpstreamFailed):
        house.join(house.plan())
    house.says(ok())
    assert await house.get(Plan("another", "test", house.url, judge, None)) == BIG
    assert house.asked()[-1] is None


@pytest.mark.parametrize("body", [SMALL, BIG], ids=["small", "big"])
@pytest.mark.parametrize(
    ("more", "changes"),
    [
        (b"x", {}),
        (b"x", {"framing": "chunked"}),
        (b"x", {"framing": "close"}),
        (b"", {"stop_after": 60_000, "framing": "close"}),
    ],
    ids=["declared", "chunked", "close", "short"],
)
async def test_a_wrong_size(house: House, body: bytes, more: bytes, changes: dict[str, Any]) -> None:
    """Declared or found out: a size other than the listed one is a wrong body."""
    house.says(ok(body + more, **changes))
    follower = house.join(house.plan(body, size=len(body), hashes={}))
    got = bytearray()
    with pytest.raises(WrongBody):
        await followed(follower, got=got)
    assert len(got) <= max(0, len(body) - HOLD_BACK + 1)
    await house.over(follower)
    assert await house.stored() is None


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("ending", ["close", "reset"])
async def test_a_cut_body_is_no_wrong_one(house: House, framing: Any, ending: Any) -> None:
    """The connection was at fault: followers are cut, nothing is kept, and the next request is an ordinary one.
    (Of an upstream that knows no ranges; tests/test_source.py has those that do.)"""
    house.says(ok(stop_after=300_000, framing=framing, ending=ending, headers={"Accept-Ranges": "none"}), ok())
    follower = house.join(house.plan())
    got = bytearray()
    with pytest.raises(UpstreamFailed) as caught:
        await followed(follower, got=got)
    assert not isinstance(caught.value, WrongBody)
    assert (caught.value.status, caught.value.retry_after) == (503, 2)
    assert len(got) <= 300_000 - HOLD_BACK
    await house.over(follower)
    assert await house.get(house.plan()) == BIG
    assert house.asked() == [None, None]


async def test_an_endless_body_is_cut(house: House) -> None:
    """Without any size the plan's limit holds."""
    house.says(ok(framing="chunked"))
    follower = house.join(house.plan(limit=100_000, hashes={}))
    with pytest.raises(WrongBody):
        await followed(follower)
    await house.over(follower)
    assert await house.stored() is None


@pytest.mark.parametrize(("limit", "allowed"), [(len(BIG), True), (len(BIG) - 1, False), (1, False)])
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_the_limit_of_a_body_without_a_listed_size(
    house: House, framing: Any, limit: int, allowed: bool
) -> None:
    """The upstream does not set its own limit: what it declares beyond ours is refused before a byte is taken."""
    house.says(ok(framing=framing))
    follower = house.join(house.plan(limit=limit))
    if allowed:
        assert await followed(follower) == BIG
    else:
        got = bytearray()
        with pytest.raises(UpstreamFailed) as caught:
            await followed(follower, got=got)
        declared = "the upstream's body is larger than allowed"
        counted = "the upstream's body is longer than it may be"
        assert (caught.value.status, caught.value.because) == (502, declared if framing == "length" else counted)
        assert len(got) < limit
    await house.over(follower)
    assert await house.stored() == (BIG if allowed else None)


async def test_too_large_a_length_is_no_wrong_body(house: House) -> None:
    """It says nothing about the bytes: the next one is asked for in the ordinary way, and no URL rests."""
    house.says(ok())
    for _ in range(3):
        with pytest.raises(UpstreamFailed, match="larger than allowed"):
            await house.get(house.plan(limit=1))
    assert house.asked() == [None, None, None]
    assert await house.get(house.plan(limit=len(BIG))) == BIG


async def test_a_listed_size_is_the_limit(house: House) -> None:
    """What a page lists is taken, however little would be taken of a body of unknown size."""
    house.says(ok())
    assert await house.get(house.plan(size=len(BIG), limit=1)) == BIG


async def test_what_the_judge_says_reaches_the_followers(house: House) -> None:
    """A head that is no body is told as it was judged, and does not count as a wrong body."""
    house.says(Answer(status=404), ok())
    with pytest.raises(UpstreamFailed) as caught:
        await house.get(house.plan())
    assert caught.value.upstream_status == 404
    await until(lambda: KEY not in house.fills._fills)
    assert await house.get(house.plan()) == BIG
    assert house.asked() == [None, None]


async def test_a_fault_of_ours_leaves_nobody_waiting(house: House) -> None:
    """An exception nobody thought of ends the fill; followers are told instead of waiting for ever."""

    def broken(reply: Reply) -> tuple[int, int | None]:
        raise LookupError("never thought of")

    house.says(ok())
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    with pytest.raises(UpstreamFailed) as caught:
        await house.get(house.plan(judge=broken))
    assert caught.value.status == 503
    await until(lambda: KEY not in house.fills._fills)
    assert await house.get(house.plan()) == BIG


# --- a store that cannot


async def test_no_room_for_it(tmp_path: Path, upstream: Upstream) -> None:
    """A body too large to be kept passes through, verified, without a spool in the cache."""
    async with house_in(tmp_path / "cache", upstream, max_size=len(BIG)) as house:
        gate = Gate()
        house.says(ok(stall_after=300_000, gate=gate))
        follower = house.join(house.plan(size=len(BIG)))
        await follower.fill.ready()
        assert not follower.fill.keeps
        assert files_in(house.store.directory / "incoming") == {}
        gate.open()
        assert await followed(follower) == BIG
        await house.over(follower)
        assert await house.stored() is None


async def test_a_body_that_cannot_be_adopted(house: House) -> None:
    """Rule 8: the followers have it all; that it was not kept costs only the next one a request."""
    house.says(ok())
    for _ in range(2):
        follower = house.join(house.plan(name=".hidden"))
        assert await followed(follower) == BIG
        await house.over(follower)
        assert follower.fill.failure is None
    assert await house.stored() is None
    assert house.asked() == [None, None]


async def test_a_spool_that_cannot_be_removed(house: House) -> None:
    """Even then the fill ends, is forgotten, and closes its file after the last follower."""
    gate = Gate()
    house.says(ok(stall_after=300_000, gate=gate))
    follower = house.join(house.plan(name=".hidden"))
    await follower.fill.ready()
    piece = await follower.beyond(0)
    assert piece is not None
    (name,) = files_in(house.store.directory / "incoming")
    path = house.store.directory / "incoming" / name
    path.unlink()
    path.mkdir()
    gate.open()
    assert await followed(follower) == BIG
    await until(lambda: follower.fill.settled)
    assert piece.file.closed
    assert KEY not in house.fills._fills


async def on_a_disk_that_fills(directory: Path, limit: int) -> None:
    """Runs in a process of its own: no file may grow beyond ``limit`` bytes, half-way through a body of 1.5 MiB."""
    body = whole(Generated(MIB + MIB // 2))
    with Upstream() as upstream:
        async with house_in(directory, upstream) as house:
            gate = Gate()
            house.says(ok(body, stall_after=limit + 200_000, gate=gate))
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            follower = house.join(house.plan(body))
            got = bytearray()
            early = asyncio.create_task(followed(follower, got=got))
            await until(lambda: len(got) > max(limit, 1) or early.done())
            late = asyncio.create_task(followed(house.join(house.plan(body)), 1000))
            gate.open()
            results = await asyncio.gather(early, late, return_exceptions=True)
            await house.over(follower)
            kept = follower.fill.keeps or await house.stored() is not None
            if [*results] == [body, body[1000:]]:
                print("all of it", "kept" if kept else "not kept", follower.fill.failure)
            else:
                assert all(isinstance(each, UpstreamFailed) for each in results), results
                print("cut", "kept" if kept else "not kept", follower.fill.failure)


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (MIB, "all of it not kept None"),
        (600_000, "all of it not kept None"),
        (0, "cut not kept no place to put the body"),
    ],
    ids=["cache", "everything", "memory"],
)
def test_a_disk_that_fills_half_way(tmp_path: Path, limit: int, said: str) -> None:
    """The rest of the body goes where temporary files go, or stays in memory, and followers read across; with no place
    left they are cut, and nobody waits for ever."""
    code = (
        "import asyncio, sys, pathlib; from tests.test_fill import on_a_disk_that_fills as run; "
        "asyncio.run(run(pathlib.Path(sys.argv[1]), int(sys.argv[2])))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "cache"), str(limit)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout.strip()) == (0, said), ended.stderr


# --- relays, limits, the end


async def test_a_relayed_part(house: House) -> None:
    """A relay begins where its 206 begins, holds nothing back and keeps nothing."""
    start, gate = 100_000, Gate()
    house.says(Answer(status=206, body=BIG[start:], stall_after=200_000, gate=gate))
    plan = house.plan(judge=lambda reply: (start, len(BIG)), keep=None, headers={"Range": f"bytes={start}-"}, hashes={})
    follower = house.join(plan)
    got = bytearray()
    reading = asyncio.create_task(followed(follower, start, got))
    await until(lambda: len(got) == 200_000)
    assert not follower.fill.keeps
    assert follower.fill.size == len(BIG)
    with pytest.raises(UpstreamFailed):
        await follower.beyond(start - 1)
    gate.open()
    assert await reading == BIG[start:]
    assert await house.stored() is None
    assert [each.headers["range"] for each in house.upstream.asked(PATH)] == ["bytes=100000-"]


async def test_a_relay_ends_with_its_last_client(house: House) -> None:
    """Nobody would have anything of it: it is cancelled, and who comes then starts another."""
    gate = Gate()
    house.says(Answer(status=206, body=BIG, stall_after=200_000, gate=gate))
    plan = house.plan(judge=lambda reply: (0, len(BIG)), keep=None, headers={"Range": "bytes=0-"}, hashes={})
    first, second = house.join(plan), house.join(plan)
    await first.fill.ready()
    first.close()
    first.close()
    await second.fill.ready()
    assert second.fill.failure is None
    second.close()
    third, joined = house.fills.join(plan)
    assert not joined
    assert third.fill is not second.fill
    await until(lambda: second.fill.settled)
    gate.open()
    assert await followed(third) == BIG
    assert len(house.asked()) == 2


async def test_too_many_wait(tmp_path: Path, upstream: Upstream) -> None:
    """One more than may wait for a file is told to come again, and harms nobody."""
    async with house_in(tmp_path / "cache", upstream, waiters=2) as house:
        gate = Gate()
        house.says(ok(stall_after=0, gate=gate))
        followers = [house.join(house.plan()) for _ in range(2)]
        with pytest.raises(UpstreamFailed) as caught:
            house.join(house.plan())
        assert (caught.value.status, caught.value.retry_after) == (503, 2)
        gate.open()
        assert [await followed(each) for each in followers] == [BIG, BIG]


async def test_close_tells_the_followers(house: House) -> None:
    """At shutdown nobody waits, no spool is left and nothing is kept."""
    gate = Gate()
    house.says(ok(stall_after=300_000, gate=gate))
    follower = house.join(house.plan())
    reading = asyncio.create_task(followed(follower))
    await passed(gate)
    await house.fills.close()
    with pytest.raises(UpstreamFailed) as caught:
        await reading
    assert (caught.value.status, caught.value.retry_after) == (503, 2)
    await house.over(follower)
    assert await house.stored() is None


@pytest.mark.parametrize("relay", [False, True], ids=["kept", "relay"])
async def test_close_before_it_began(house: House, relay: bool) -> None:
    """A fill whose task never had a turn tells its followers as well, and is forgotten."""
    follower = house.join(house.plan(keep=None) if relay else house.plan())
    await house.fills.close()
    with pytest.raises(UpstreamFailed) as caught:
        await followed(follower)
    assert caught.value.status == 503
    assert KEY not in house.fills._fills
    assert house.asked() == []


async def test_close_while_relays_wait_for_each_other(house: House) -> None:
    """Nobody is left behind in the queue."""
    gate = Gate()
    house.says(ok(stall_after=0, gate=gate))
    plans = [replace(house.plan(keep=None), key=f"relay {number}") for number in range(50)]
    followers = [house.join(plan) for plan in plans]
    await passed(gate)
    await house.fills.close()
    for follower in followers:
        with pytest.raises(UpstreamFailed):
            await followed(follower)
    assert len(house.asked()) < len(plans)


async def test_close_while_a_wrong_body_is_thrown_away(house: House) -> None:
    """A shutdown at that moment leaves no file open either."""
    house.says(ok(corrupt=len(BIG) - 1))
    follower = house.join(house.plan())
    await follower.fill.ready()
    piece = await follower.beyond(0)
    assert piece is not None
    with pytest.raises(WrongBody):
        await followed(follower)
    before = follower.fill.settled
    await house.fills.close()
    assert (before, follower.fill.settled, piece.file.closed) == (False, True, True)


@pytest.mark.parametrize(
    ("hashes", "expected"),
    [
        ({}, None),
        ({"crc32": "0"}, None),
        ({"md5": "1", "sha1": "2"}, ("sha1", "2")),
        ({"md5": "1", "sha256": "2", "sha512": "3"}, ("sha256", "2")),
        ({"sha512": "3", "blake2b": "4"}, ("sha512", "3")),
    ],
)
def test_strongest(hashes: dict[str, str], expected: tuple[str, str] | None) -> None:
    """sha256 first, for it is the ETag and costs nothing more; what hashlib lacks is not looked at."""
    assert strongest(hashes) == expected


# --- no place but memory


@pytest.fixture
def no_place(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache's directory for spools is gone, and where temporary files went, too."""
    (house.store.directory / "incoming").rmdir()
    monkeypatch.setattr(tempfile, "tempdir", str(house.store.directory / "nowhere"))


@pytest.mark.usefixtures("no_place")
async def test_a_body_without_a_place(house: House) -> None:
    """It goes through memory, of which no more is taken than is allowed, as fast as its slowest follower reads; who
    comes when its beginning is gone begins anew."""
    body = whole(Generated(3 * IN_MEMORY))
    house.says(ok(body))
    slow = house.join(house.plan(body))
    fast = asyncio.create_task(house.get(house.plan(body)))
    await until(lambda: slow.fill._segments.full)
    assert not fast.done()
    assert not slow.fill.late
    assert len(slow.fill._segments.files) <= IN_MEMORY // 2**19 + 1
    got = bytearray()
    reading = asyncio.create_task(followed(slow, got=got))
    await until(lambda: slow.fill.late)
    assert not house.fills.under_way(KEY)
    again = house.join(house.plan(body))
    assert again.fill is not slow.fill
    assert all(each == body for each in await asyncio.gather(reading, fast, followed(again)))
    assert house.upstream.count("GET", PATH) == 2
    assert slow.fill.completed is not None
    assert await house.stored() is None


@pytest.mark.usefixtures("no_place")
async def test_a_body_without_a_place_or_readers(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for ever for a follower that does not read; and a body that nobody wants any more ends."""
    monkeypatch.setattr(fill_module, "_READ_WITHIN", 0.2)
    body = whole(Generated(3 * IN_MEMORY))
    house.says(ok(body))
    follower = house.join(house.plan(body))
    await until(lambda: follower.fill.failure is not None)
    assert follower.fill.failure is not None
    assert (follower.fill.failure.status, follower.fill.failure.retry_after) == (503, 2)
    left = house.join(house.plan(body))
    await until(lambda: left.fill._segments.full)
    left.close()
    await until(lambda: left.fill.settled)
    assert left.fill._segments.files == []
    follower.close()
