"""Mounts as they run against the model of RFC 9111: a real store, a real upstream, over loopback; time is made up."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from proxy.answer import Answer as Given
from proxy.answer import Flow
from proxy.breaker import Patience
from proxy.calls import Site
from proxy.connections import Budget
from proxy.core.fields import FOREVER
from proxy.core.messages import RawTarget, Request, Rules, combined
from proxy.core.mounted import raw_key, variants_key
from proxy.core.variants import loaded
from proxy.errors import ProxyError
from proxy.fills import Fills
from proxy.mountrequests import Mount, MountLimits
from proxy.mounts import Mounts
from proxy.replies import Reply as Received
from proxy.store import Store
from proxy.upstream import Upstream
from tests.core.known import KNOWN
from tests.core.playing import Expected, Kept, Origin, Reply, Seen, expected, fields_of
from tests.core.rfc9111 import SIZE, Answer
from tests.core.scripts import MOUNT, SCRIPTS, URLS, Script, Settings, Step, smallest
from tests.harness.responder import PATIENCE, Responder, responders
from tests.keeping import open_store

# Each failure of a script is one request, and makes nobody rest.
ONCE = Budget(retries=0)
UNDAUNTED = Patience(failures=10**9)
BODILESS = (204, 304)


class Timed(Upstream):
    """An upstream whose answers come when the script says: on the wire no time passes."""

    origin: Origin

    @asynccontextmanager
    async def forward(self, *args: Any, **options: Any) -> AsyncIterator[Received]:
        asked_at = self.origin.now
        async with super().forward(*args, **options) as reply:
            reply.head = replace(reply.head, asked_at=asked_at, received_at=self.origin.now)
            yield reply


class Room:
    """Plays to a mount of its own in the store of all."""

    def __init__(self, store: Store, responder: Responder, number: int, options: Settings) -> None:
        self.store, self.responder, self.name = store, responder, f"m{number}"
        self.url = responder.url("/base/")
        self.upstream = Timed([Site(self.name, self.url)], files=ONCE, patience=UNDAUNTED)
        rules = Rules(
            default_ttl=options.default_ttl,
            max_ttl=float(FOREVER),
            heuristic_cap=86_400.0,
            stale_if_error=options.stale_if_error,
            stale_while_revalidate=options.stale_while_revalidate,
            reload=options.reload,
            transparent=True,
        )
        self.mounts = Mounts(
            [Mount(self.name, self.url, rules, pass_credentials=True)],
            Fills(store, self.upstream, waiters=9),
            store,
            self.upstream,
            limits=MountLimits(waiters=9, body_max=99),
            clock=lambda: self.upstream.origin.now,
        )

    async def close(self) -> None:
        """No more of it."""
        await self.mounts.close()
        await self.upstream.close()

    async def play(self, step: Step, origin: Origin) -> Seen:
        """What this step comes to."""
        self.upstream.origin, target = origin, RawTarget(self.name, step.url)
        self.responder.answers = (partial(self._converse, origin),)
        try:
            given = await self.mounts.answer(
                Request(step.method, target, dict(step.fields), fields=step.fields), target
            )
            answer = await answered(step, given)
        except ProxyError as error:
            answer = Answer("nobody", 504 if error.status == 504 else None)
        return Seen(answer, tuple(origin.asked))

    async def settled(self, origin: Origin, wanted: Expected) -> Kept:
        """What is stored, once nothing is under way, and all is asked that is to be asked behind a client's back."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while (  # noqa: ASYNC110 - neither of them tells
                    self.mounts.waiting.under_way or len(origin.asked) < len(wanted.seen.asked)
                ):
                    await asyncio.sleep(0.001)
        rows = []
        for url in URLS:
            for each in loaded(await self.store.read(variants_key(self.name, url))):
                stored = await self.store.stored("mounts", raw_key(self.name, url, each.mark))
                if stored is not None:
                    with stored.handle:
                        number = int(stored.handle.read() or -1)
                    fields = fields_of(stored.entry.head.headers)
                    there = {name: value.replace(self.url, MOUNT) for name, value in fields.items()}
                    rows.append((url, stored.entry.head.status, number, there))
        return sorted(rows, key=repr)

    async def _converse(self, origin: Origin, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self.responder.take(reader)
        method, *lines = self.responder.requests[-1].decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines if line)
        reply = origin.reply(fields_of(tuple((name, value.strip()) for name, _, value in pairs)))
        if reply.status is not None:
            writer.write(self._wire(reply, bodiless=method.startswith("HEAD ") or reply.status in BODILESS))
            await writer.drain()
        writer.close()

    def _wire(self, reply: Reply, *, bodiless: bool) -> bytes:
        told = [(name, value.replace(MOUNT, self.url)) for name, value in reply.lines]
        if not bodiless or reply.status == 204:
            told = [line for line in told if line[0] != "Content-Length"]
        told.append(("Connection", "close"))
        if not bodiless:
            told.append(("Content-Length", str(SIZE)))
        head = "".join(f"{name}: {value}\r\n" for name, value in told)
        body = "" if bodiless else f"{reply.body:0{SIZE}}"
        return f"HTTP/1.1 {reply.status} As Scripted\r\n{head}\r\n{body}".encode("latin-1")


async def answered(step: Step, given: Given) -> Answer:
    """An answer in the words of the model."""
    source = "store" if given.cache_status.outcome in ("hit", "stale", "revalidated") else "origin"
    age = combined(given.headers, "age") if source == "store" else None
    body = await whole(given)
    number = None if step.method == "HEAD" or not body or given.status in BODILESS else int(body)
    return Answer(source, given.status, number, None if age is None else int(age))


async def whole(given: Given) -> bytes:
    """All of the body, also where a part of it is the answer."""
    if isinstance(given.body, bytes):
        return given.body
    read = b""
    if isinstance(given.body, Flow):
        read = given.body.first + b"".join([piece async for piece in given.body.rest])
        await given.body.rest.aclose()
        return read
    while (piece := await given.body.beyond(len(read))) is not None:
        read += os.pread(piece.file.fileno(), piece.count, piece.position)
    given.close()
    return read


def without_bodies(kept: Kept) -> Kept:
    """A 204 has none that could tell whose it is."""
    return sorted(
        ((url, status, -1 if status in BODILESS else body, told) for url, status, body, told in kept), key=repr
    )


async def disagreement(store: Store, responder: Responder, number: int, script: Script) -> str | None:
    """The first step that came to something else than by the model."""
    room = Room(store, responder, number, script.settings)
    try:
        for each in expected(script):
            origin = each.origin()
            seen = await room.play(each.step, origin)
            now_kept = await room.settled(origin, each)
            seen, wanted = replace(seen, asked=tuple(origin.asked)), each.seen
            if wanted.answer.status in BODILESS:
                wanted = replace(wanted, answer=replace(wanted.answer, body=None))
            if (seen, now_kept) != (wanted, without_bodies(each.kept)):
                return f"step {each.number}: {seen}, not {wanted}; stored {now_kept}, not {each.kept}"
    finally:
        await room.close()
    return None


@pytest.fixture
def disagrees(tmp_path: Path) -> Iterator[Callable[[Script], str | None]]:
    """Plays a script to a mount that is new."""
    numbers = count()
    with asyncio.Runner() as runner:
        running = AsyncExitStack()

        async def begun() -> tuple[Store, Responder]:
            store = await open_store(tmp_path / "cache")
            running.push_async_callback(store.close)
            serve = await running.enter_async_context(responders())
            return store, await serve(b"")

        store, responder = runner.run(begun())
        yield lambda script: runner.run(disagreement(store, responder, next(numbers), script))
        runner.run(running.aclose())


def test_no_disagreement(disagrees: Callable[[Script], str | None]) -> None:
    """What a mount serves, asks for and stores is what RFC 9111 says, step by step."""

    @settings(
        max_examples=200 if os.environ.get("CI") else 50,
        phases=(Phase.generate,),
        derandomize=False,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(SCRIPTS)
    def played(script: Script) -> None:
        if disagrees(script) is not None:
            least = smallest(script, lambda less: disagrees(less) is not None)
            pytest.fail(f"{least!r}\n{disagrees(least)}", pytrace=False)

    played()


@pytest.mark.parametrize("steps", KNOWN.values(), ids=KNOWN)
def test_what_they_once_disagreed_on(steps: tuple[Step, ...], disagrees: Callable[[Script], str | None]) -> None:
    """The scripts that found something in the core."""
    assert disagrees(Script(steps=steps)) is None
