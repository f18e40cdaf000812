"""What the tests of faults lean on: leaks are seen, and a server goes by the clock that a test moves."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from tests.harness.aftermath import Aftermath, control, held
from tests.harness.behaviours import Answer
from tests.harness.clocked import Clock
from tests.harness.exchange import Gate
from tests.harness.packages import blob
from tests.harness.waiting import eventually
from tests.harness.world import World, fresh_name, world

YEAR = 365 * 86_400.0


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One proxy that these tests share."""
    with world(tmp_path_factory.mktemp("aftermath")) as made:
        yield made


def test_what_is_under_way_is_seen_and_its_end(here: World) -> None:
    """A client, a task, a fetch with its spool file and its connection; nothing of it once it has ended."""
    after = Aftermath(here.proxy, *control(here))
    after.settled()
    file, gate = here.publish(blob(fresh_name(), size=300_000)), Gate()
    here.script_file(file, Answer(stall_after=100_000, gate=gate))
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(here.file, file)
        assert gate.reached.wait(20)
        with pytest.raises(AssertionError, match=r"files: .* clients: .* tasks: .* fetches: .* spooled: "):
            after.settled(timeout=0)
        assert held(here.proxy).upstreams > 0
        gate.open()
        assert job.result().sha256 == file.sha256
    after.settled()
    after.settled(wholly=True)


def test_a_control_that_changes_is_seen(here: World) -> None:
    """A file that is purged is no hit with the same bytes, but another fetch."""
    name = fresh_name()
    after = Aftermath(here.proxy, *control(here, name))
    for body in here.proxy.stored():
        if name.replace("-", "_") in body.name:
            body.unlink()
    with pytest.raises(AssertionError, match="changed: /files/"):
        after.settled()


def test_a_server_goes_by_a_clock_that_is_moved(tmp_path: Path) -> None:
    """While it runs: its Date is another, and a page that was fresh is not."""
    clock = Clock(tmp_path / "clock")
    with world(tmp_path, clock=clock) as here:
        here.publish(blob("thing", size=10))
        eventually(lambda: here.page("thing").hit, "it is kept")
        for years in (1, -1):
            clock.move(years * YEAR)
            said = parsedate_to_datetime(here.get("/healthz").headers["date"]).timestamp()
            assert abs(said - clock.now) < 60
            if years > 0:
                assert not here.page("thing").hit
        assert clock.ahead == 0
