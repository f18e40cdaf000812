"""One task per key, however many ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy.errors import UpstreamFailed
from proxy.flights import Flights

WAITERS = 100


class Work:
    """A coroutine that counts its calls and waits for the test."""

    def __init__(self) -> None:
        self.calls = 0
        self.begun = asyncio.Event()
        self.going_on = asyncio.Event()
        self.failure: Exception | None = None

    async def __call__(self) -> int:
        self.calls += 1
        self.begun.set()
        number = self.calls
        await self.going_on.wait()
        if self.failure is not None:
            raise self.failure
        return number


@pytest.fixture
async def flights() -> AsyncIterator[Flights[int]]:
    """Flights that end with the test."""
    made: Flights[int] = Flights(waiters=WAITERS)
    yield made
    await made.close()


async def test_many_share_one(flights: Flights[int]) -> None:
    """Whoever comes while it flies gets the same result; whoever comes after it starts another."""
    work = Work()
    joined = [flights.join("key", work) for _ in range(WAITERS)]
    assert [under_way for _, under_way in joined] == [False] + [True] * (WAITERS - 1)
    work.going_on.set()
    assert {await asyncio.shield(task) for task, _ in joined} == {1}
    task, under_way = flights.join("key", work)
    assert not under_way
    assert await task == 2


async def test_keys_are_apart(flights: Flights[int]) -> None:
    """One key does not wait for another."""
    slow, quick = Work(), Work()
    first, _ = flights.join("slow", slow)
    second, under_way = flights.join("quick", quick)
    quick.going_on.set()
    assert not under_way
    assert await second == 1
    assert not first.done()


async def test_a_crowd_is_refused(flights: Flights[int]) -> None:
    """Beyond ``waiters``: 503 and when to come again; who is in stays in, other keys and the next flight are open."""
    work = Work()
    joined = [flights.join("key", work)[0] for _ in range(WAITERS)]
    for _ in range(2):
        with pytest.raises(UpstreamFailed, match="too many clients") as caught:
            flights.join("key", work)
        assert (caught.value.status, caught.value.retry_after) == (503, 2)
    other, under_way = flights.join("other", work)
    assert not under_way
    work.going_on.set()
    assert {await asyncio.shield(task) for task in joined} == {1}
    assert await other == 2
    again = [flights.join("key", work) for _ in range(WAITERS)]
    assert [under_way for _, under_way in again] == [False] + [True] * (WAITERS - 1)
    assert await again[0][0] == 3


async def test_one_waiter_is_nobody_to_share_with() -> None:
    """The least limit there is: whoever starts a flight has it alone."""
    flights: Flights[int] = Flights(waiters=1)
    work = Work()
    task, under_way = flights.join("key", work)
    assert not under_way
    with pytest.raises(UpstreamFailed):
        flights.join("key", work)
    work.going_on.set()
    assert await task == 1
    await flights.close()


async def test_it_outlives_its_callers(flights: Flights[int]) -> None:
    """Cancelling the one who started it ends neither the work nor the wait of the others."""
    work = Work()

    async def ask() -> int:
        return await asyncio.shield(flights.join("key", work)[0])

    first = asyncio.create_task(ask())
    other = asyncio.create_task(ask())
    await work.begun.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    work.going_on.set()
    assert await other == 1
    assert work.calls == 1


async def test_a_failure_is_shared_and_forgotten(flights: Flights[int]) -> None:
    """All who waited see it, the next one tries anew, and one that nobody waited for disturbs nobody."""
    complaints: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    work = Work()
    work.failure = ValueError("no")
    tasks = [flights.join("key", work)[0] for _ in range(2)]
    flights.join("unwatched", work)
    work.going_on.set()
    for task in tasks:
        with pytest.raises(ValueError, match="no"):
            await asyncio.shield(task)
    work.failure = None
    task, under_way = flights.join("key", work)
    assert not under_way
    assert await task == 3
    del tasks, task
    assert complaints == []


async def test_a_new_flight_is_not_ended_by_the_old_one(flights: Flights[int]) -> None:
    """A caller that resumes before the callbacks of its flight may start the next one, which then stays."""
    work = Work()
    work.going_on.set()
    await flights.join("key", work)[0]
    work.going_on.clear()
    second, _ = flights.join("key", work)
    await asyncio.sleep(0)
    third, under_way = flights.join("key", work)
    assert under_way
    assert third is second
    work.going_on.set()
    assert await third == 2


async def test_close_cancels(flights: Flights[int]) -> None:
    """Who waits is told, and afterwards nothing is under way."""
    work = Work()
    task, _ = flights.join("key", work)
    await flights.close()
    assert task.cancelled()
    work.going_on.set()
    again, under_way = flights.join("key", work)
    assert not under_way
    await again


def test_a_failure_that_is_remembered_holds_nothing_of_who_asked() -> None:
    """A traceback keeps every frame alive that it went through: requests, entries, whole pages."""
    try:
        try:
            raise ValueError
        except ValueError as cause:
            raise UpstreamFailed("it failed", status=503, retry_after=7, upstream_status=500) from cause
    except UpstreamFailed as failed:
        raised, kept = failed, failed.anew()
    assert raised.__traceback__ is not None
    assert (kept.__traceback__, kept.__cause__, kept.__context__) == (None, None, None)
    told = [(each.because, each.status, each.retry_after, each.upstream_status) for each in (raised, kept)]
    assert told == [("it failed", 503, 7, 500)] * 2
