"""What is told of requests to an upstream: one event for each that it was sent, and what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from proxy.breaker import Patience
from proxy.calls import Site
from proxy.connections import Budget
from proxy.errors import UpstreamFailed
from proxy.events import UpstreamEvent
from proxy.upstream import Upstream
from tests.harness.behaviours import Answer, Behaviour, busy, cut, hang_up, redirect
from tests.harness.exchange import Gate
from tests.harness.packages import wheel
from tests.harness.upstream import Upstream as Server

Heard = list[UpstreamEvent]
Told = tuple[int | None, int, str]

PAGE = "/simple/six/"
BODY = b"x" * 5000


@pytest.fixture
def server() -> Iterator[Server]:
    """An upstream that has one project."""
    with Server(wheel("six")) as running:
        yield running


@pytest.fixture
def heard() -> Heard:
    """What an observer was told."""
    return []


@pytest.fixture
async def asking(server: Server, heard: Heard) -> AsyncIterator[Upstream]:
    """Asks that server, and tells of it."""
    budget = Budget(connect=2.0, idle=2.0, total=10.0)
    asking = Upstream(
        [Site("test", server.url)],
        pages=budget,
        files=budget,
        patience=Patience(failures=1000),
        observers=(heard.append,),
    )
    yield asking
    await asking.close()


async def fetch(asking: Upstream, url: str, method: str = "GET") -> bytes:
    """The body, or what came of it."""
    body = b""
    try:
        async with asking.open("test", url, pool="page", headers={}, method=method) as reply:
            async for chunk in reply.chunks:
                body += chunk
    except UpstreamFailed:
        pass
    return body


def facts(heard: Heard) -> list[Told]:
    """Status, bytes and reason of each."""
    assert all(each.index == "test" and each.seconds >= 0 for each in heard)
    return [(each.status, each.received, each.because) for each in heard]


@pytest.mark.parametrize(
    ("behaviours", "told"),
    [
        ([Answer(body=BODY)], [(200, 5000, "")]),
        ([Answer(body=BODY, framing="chunked")], [(200, 5000, "")]),
        ([busy(503)], [(503, 4, "")]),
        # Each redirect and each further try is a request of its own.
        ([redirect("/simple/six/"), Answer(body=BODY)], [(302, 0, ""), (200, 5000, "")]),
        ([hang_up, Answer(body=BODY)], [(None, 0, "connection lost before the answer"), (200, 5000, "")]),
        ([hang_up], [(None, 0, "connection lost before the answer")] * 3),
        # An answer that came and cannot be one has a status all the same; so has one that is cut.
        ([Answer(status=304)], [(304, 0, "not modified, without a condition")] * 2),
        ([cut(100)], [(200, 100, "the body was cut")]),
        ([redirect("http://[nowhere/")], [(302, 0, "")]),
    ],
)
async def test_each_request_is_told_once(
    server: Server, asking: Upstream, heard: Heard, behaviours: list[Behaviour], told: list[Told]
) -> None:
    """As many as the server saw, in their order, with what came of each."""
    server.script(PAGE, *behaviours)
    await fetch(asking, server.origin + PAGE)
    assert facts(heard) == told
    assert server.count() == len(told)


async def test_a_head_has_no_bytes(server: Server, asking: Upstream, heard: Heard) -> None:
    """What it declares did not come."""
    await fetch(asking, server.origin + PAGE, "HEAD")
    assert facts(heard) == [(200, 0, "")]


async def test_who_cannot_be_reached_is_told_with_a_reason(server: Server, asking: Upstream, heard: Heard) -> None:
    """Three tries, no status."""
    server.stop()
    await fetch(asking, server.origin + PAGE)
    assert facts(heard) == [(None, 0, "no connection")] * 3


async def test_who_gives_up_is_told_without_a_reason(server: Server, asking: Upstream, heard: Heard) -> None:
    """Before the head: the upstream has done nothing wrong that we know of."""
    gate = Gate()
    server.script(PAGE, Answer(held=gate))
    task = asyncio.create_task(fetch(asking, server.origin + PAGE))
    await asyncio.to_thread(gate.reached.wait, 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.open()
    assert facts(heard) == [(None, 0, "")]


async def test_a_body_that_nobody_reads_on_is_told_as_far_as_it_came(
    server: Server, asking: Upstream, heard: Heard
) -> None:
    """Leaving it is no failure of the upstream."""
    gate = Gate()
    server.script(PAGE, Answer(body=BODY, stall_after=1000, gate=gate))
    async with asking.open("test", server.origin + PAGE, pool="page", headers={}) as reply:
        assert len(await anext(reply.chunks)) == 1000
        assert heard == []
    gate.open()
    assert facts(heard) == [(200, 1000, "")]


async def test_what_rests_is_not_asked_and_not_told(server: Server, heard: Heard) -> None:
    """It is counted as resting, by its index, until it is back."""
    patience = Patience(failures=1, probe_every=600.0)
    sites = [Site("test", server.url), Site("other", "http://example.com/simple/")]
    asking = Upstream(sites, patience=patience, observers=(heard.append,))
    try:
        assert asking.resting() == {"test": 0, "other": 0}
        server.script(PAGE, busy(500))
        await fetch(asking, server.origin + PAGE)
        assert asking.resting() == {"test": 1, "other": 0}
        await fetch(asking, server.origin + PAGE)
        assert len(heard) == server.count() == 1
    finally:
        await asking.close()
