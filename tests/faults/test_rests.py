"""Who is left alone, for how long, and what its clients see meanwhile: the row of 429, and the breaker.

What it does is told by the upstream's log, with intervals so long (or so short) that no test depends on how fast it
runs.
"""

from __future__ import annotations

from email.utils import formatdate
from pathlib import Path

import pytest

from tests.faults.test_pages import GOOD, NEVER_OPENED, ROWS, STALE, comes_again, last_good, project, stored
from tests.harness.behaviours import Answer, Behaviour, busy, hang_up, polite
from tests.harness.exchange import Gate
from tests.harness.fetch import Fetched
from tests.harness.packages import wheel
from tests.harness.server import Settings
from tests.harness.waiting import eventually
from tests.harness.world import World, world

NEVER = "1h"


def warm(here: World, number: int) -> dict[str, Fetched]:
    """So many projects whose pages are stored and stale."""
    return dict(stored(here, GOOD) for _ in range(number))


def all_fail(here: World, projects: dict[str, Fetched], behaviour: Behaviour) -> None:
    """From now on this is what the upstream does to them; its log begins anew."""
    for name in projects:
        here.script(name, behaviour)
    here.upstream.forget()


def test_many_warm_projects(tmp_path: Path) -> None:
    """An index that answers and fails: each is served, and hardly any asked for; a cold one is told to come again."""
    with world(tmp_path, {"limits": {"probe_interval": NEVER, "breaker_failures": 5}}) as here:
        projects = warm(here, 50)
        all_fail(here, projects, busy(500))
        assert all(last_good(here.page(name), first) for name, first in projects.items())
        assert 1 <= len(here.upstream.log) <= 5
        cold, _ = project(here, busy(500))
        assert comes_again(here.page(cold))


def test_nobody_waits_for_a_look_that_is_late(tmp_path: Path) -> None:
    """One page asked for again and again while its look hangs: the first waits, the others do not, nor ask."""
    settings: Settings = {"freshness": {"stale_after": "2s"}}
    with world(tmp_path, settings) as here:
        name, first = stored(here, Answer(held=NEVER_OPENED))
        assert all(last_good(here.page(name), first) for _ in range(50))
        assert len(here.page_requests(name)) == 2
        lines = here.proxy.wait_for_log(lambda lines: sum(name in str(line) for line in lines) == 51)
        waits = [float(line["upstream_seconds"]) for line in lines if line.get("outcome") == "stale"]
        assert [wait > 0 for wait in waits] == [True] + [False] * 49


def test_recovery(tmp_path: Path) -> None:
    """Killed and started again: while it is gone a cold page is a quick 503, then the first probe finds it back."""
    settings: Settings = {
        "freshness": {"stale_after": "0.3s"},
        "limits": {"probe_interval": "0.3s", "breaker_failures": 5},
    }
    with world(tmp_path, settings) as here:
        projects = warm(here, 20)
        cold, file = project(here, polite)
        here.upstream.stop()
        assert all(last_good(here.page(name), first) for name, first in projects.items())
        assert comes_again(here.page(cold))
        here.upstream.start()
        eventually(lambda: here.page(cold).status == 200, "the cold page is served")
        assert here.file(file).sha256 == file.sha256
        made = {name: here.publish(wheel(name, "2.0")) for name in projects}
        eventually(
            lambda: all(new.filename.encode() in here.page(name).body for name, new in made.items()), "all are new"
        )


def test_recovery_from_silence(tmp_path: Path) -> None:
    """It accepts and does not answer: what is stored is served behind one probe at a time, until one is answered."""
    settings: Settings = {
        "freshness": {"stale_after": "0.3s"},
        "limits": {"probe_interval": "0.3s", "first_byte_timeout": "1s", "page_timeout": "2s"},
    }
    gate = Gate()
    with world(tmp_path, settings) as here:
        projects = warm(here, 20)
        all_fail(here, projects, Answer(held=gate, headers=STALE))
        assert all(last_good(here.page(name), first) for name, first in projects.items())
        assert len(here.upstream.log) < 20
        made = {name: here.publish(wheel(name, "2.0")) for name in projects}
        gate.open()
        eventually(
            lambda: all(new.filename.encode() in here.page(name).body for name, new in made.items()), "all are new"
        )


@pytest.mark.parametrize(
    "request_to_rest", [busy(429, 3600), busy(503, 3600), busy(429, formatdate(4_000_000_000, usegmt=True))]
)
def test_an_upstream_that_asks_to_be_left_alone(tmp_path: Path, request_to_rest: Behaviour) -> None:
    """429 or 503 with Retry-After: the whole origin is left alone; stale pages are served, others get a small
    Retry-After, and the file host, another origin, is asked on."""
    with world(tmp_path, {"limits": {"rest_max": NEVER}}) as here:
        kept, first = stored(here, GOOD)
        file = here.upstream.index.files_of(kept)[0]
        busy_one, _ = project(here, request_to_rest)
        cold, _ = project(here, polite)
        here.upstream.forget()
        for _ in range(3):
            assert comes_again(here.page(busy_one))
            assert last_good(here.page(kept), first)
            assert comes_again(here.page(cold))
        assert [each.path for each in here.upstream.log] == [f"/simple/{busy_one}/"]
        assert here.file(file).sha256 == file.sha256


def test_a_file_host_that_asks_to_be_left_alone(tmp_path: Path) -> None:
    """The same for files: another file of that host is 503 unasked, and pages go on."""
    with world(tmp_path, {"limits": {"rest_max": NEVER}}) as here:
        (one, busy_file), (two, other) = project(here, polite), project(here, polite)
        assert [here.page(name).status for name in (one, two)] == [200, 200]
        here.script_file(busy_file, busy(429, 3600))
        assert comes_again(here.file(busy_file))
        assert comes_again(here.file(other))
        assert here.file_requests(other) == []
        assert here.page(project(here, polite)[0]).status == 200


@pytest.mark.parametrize("fault", ["500", "reset", "hang-up", "two-lengths", "2000-headers"])
def test_one_page_that_fails_is_that_page_alone(tmp_path: Path, fault: str) -> None:
    """An installer that tries it again and again does not make the index rest for the others; another page that fails
    does, where two are enough."""
    with world(tmp_path, {"limits": {"breaker_failures": 2, "probe_interval": NEVER}}) as here:
        bad, _ = project(here, ROWS[fault].behaviour)
        assert all(comes_again(here.page(bad)) for _ in range(3))
        assert len(here.page_requests(bad)) == 3 * ROWS[fault].asked
        assert here.page(project(here, polite)[0]).status == 200
        # That was a sign of life, so the count begins anew.
        assert comes_again(here.page(bad))
        assert comes_again(here.page(project(here, ROWS[fault].behaviour)[0]))
        good, _ = project(here, polite)
        assert comes_again(here.page(good))
        assert here.page_requests(good) == []


def test_the_log_tells_who_rests(tmp_path: Path) -> None:
    """Once when it begins and once when it ends: the index and its host, and nothing that was asked of it."""
    with world(tmp_path, {"limits": {"breaker_failures": 2, "probe_interval": "0.3s"}}) as here:
        names = [project(here, busy(500))[0] for _ in range(3)]
        assert all(comes_again(here.page(name)) for name in names)
        good, _ = project(here, polite)
        eventually(lambda: here.page(good).status == 200, "it is asked again")
        lines = here.proxy.wait_for_log(lambda lines: any(line["event"] == "back" for line in lines))
        told = [line for line in lines if line["event"] in ("resting", "back")]
        host = here.upstream.origin.partition("//")[2]
        assert [(each["event"], each["level"]) for each in told] == [("resting", "warning"), ("back", "info")]
        assert all((each["index"], each["host"]) == ("test", host) for each in told)
        assert not any(name in str(told) for name in names)


def test_it_is_left_alone_no_longer_than_rest_max(tmp_path: Path) -> None:
    """An upstream that asks for a day is asked again when ``rest_max`` is over."""
    with world(tmp_path, {"limits": {"rest_max": "1s"}}) as here:
        name, _ = project(here, busy(429, 86_400), polite)
        assert comes_again(here.page(name))
        eventually(lambda: here.page(name).status == 200, "the page is served")
        assert len(here.page_requests(name)) == 2


def test_who_was_under_way_leaves_it_alone_too(tmp_path: Path) -> None:
    """What would be tried again is not, once the host rests."""
    with world(tmp_path, {"limits": {"breaker_failures": 1, "probe_interval": NEVER}}) as here:
        name, _ = project(here, hang_up)
        assert comes_again(here.page(name))
        assert len(here.page_requests(name)) == 1
