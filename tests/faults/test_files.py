"""Every way an upstream can fail a file: what its client sees, what is kept, counted and logged, and what is left.

The rows of the table "Upstream faults and what a client sees", for files: cold ones so small that they are judged as a
whole, cold ones of which bytes have left, and those that are here already. Bodies that go on where they broke are in
``tests/e2e/test_resume.py``.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import formatdate
from threading import Event
from typing import Any

import pytest

from tests.faults.ledger import KEPT, Ledger
from tests.harness.aftermath import Aftermath, nothing_left
from tests.harness.behaviours import (
    Answer,
    Behaviour,
    Raw,
    busy,
    cut,
    hang_up,
    in_circles,
    instead,
    polite,
    redirect,
    reset_at_once,
)
from tests.harness.blackhole import blackhole
from tests.harness.clients import Fresh, Installer
from tests.harness.exchange import Ending, Gate
from tests.harness.fetch import Fetched, fetch
from tests.harness.index import JSON_V1
from tests.harness.packages import wheel
from tests.harness.server import Settings
from tests.harness.waiting import eventually
from tests.harness.world import BIG, SMALL, World, fresh_name, right, world

# No origin rests here: many faults share one.
SETTINGS: Settings = {
    "freshness": {"min_reload_interval": "0s"},
    "limits": {"idle_timeout": "1s", "connect_timeout": "0.5s"},
}
# Options that keep an installer from asking again by itself.
ONCE = {
    "pip-23.2": ("--retries", "0"),
    "pip-newest": ("--retries", "0", "--resume-retries", "0"),
    "uv": (),
}


@pytest.fixture(scope="module")
def here(lane: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The proxy that all tests share."""
    with world(tmp_path_factory.mktemp("files"), SETTINGS) as made:
        yield made


@pytest.fixture(scope="module")
def after(here: World) -> Iterator[Aftermath]:
    """Of that proxy."""
    with nothing_left(here) as made:
        yield made


# --- the rows


@dataclass(frozen=True, slots=True)
class Row:
    """A fault, and what it leads to: the ``status`` and the reason of a small cold file; ``answered`` is what the log
    says of the upstream, None where no answer was one."""

    behaviour: Behaviour
    status: int
    because: str
    answered: int | None = 200


def broken(framing: str) -> Answer:
    """A body that ends early, of an upstream that knows no ranges."""
    how: dict[str, Any] = {"framing": framing} if framing != "gzip" else {"compressed": True}
    return Answer(stop_after=SMALL // 2, headers={"Accept-Ranges": "none"}, **how)


BROKEN = "upstream is overloaded or broken"
NO_ANSWER = "connection lost before the answer"
WRONG = "the upstream's body does not have the hash its page lists"
SIZE = "the upstream's file has another size than its page lists"
MALFORMED = "a malformed response"
REFUSED = "an address this index may not be fetched from"
DENIED = "upstream refuses access"
LACKS = "the upstream lacks a file that its page lists"
STALLED = Answer(stall_after=SMALL // 2, gate=Gate(), headers={"Accept-Ranges": "none"})
FAR_AWAY = formatdate(4_000_000_000, usegmt=True)
LONG = tuple((f"X-{number}", "canary") for number in range(2000))

ROWS: dict[str, Row] = {
    "500": Row(busy(500), 503, BROKEN, 500),
    "502": Row(busy(502), 503, BROKEN, 502),
    "503": Row(busy(503), 503, BROKEN, 503),
    "503-a-day": Row(busy(503, 86_400), 503, BROKEN, 503),
    "429": Row(busy(429), 503, BROKEN, 429),
    "429-7-s": Row(busy(429, 7), 503, BROKEN, 429),
    "429-a-day": Row(busy(429, 86_400), 503, BROKEN, 429),
    "429-a-date": Row(busy(429, FAR_AWAY), 503, BROKEN, 429),
    "429-nonsense": Row(busy(429, "later"), 503, BROKEN, 429),
    "reset": Row(reset_at_once, 503, NO_ANSWER, None),
    "hang-up": Row(hang_up, 503, NO_ANSWER, None),
    "silence": Row(Answer(held=Gate()), 503, "no answer in time", None),
    "stall": Row(STALLED, 503, "the body came to a stop"),
    "cut-length": Row(broken("length"), 503, "the body was cut"),
    "cut-chunked": Row(broken("chunked"), 503, "the body was cut"),
    "cut-close": Row(broken("close"), 502, "the upstream's body ended early"),
    "cut-gzip": Row(broken("gzip"), 502, SIZE),
    "304-never-asked-for": Row(Answer(status=304, body=b""), 503, "not modified, without a condition", 304),
    "206-to-a-plain-get": Row(Answer(status=206), 503, "a part, without a range", 206),
    "no-http": Row(Raw(b"SSH-2.0-canary\r\n\r\n"), 503, MALFORMED, None),
    "more-than-declared": Row(
        Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nmore than five, canary"), 503, MALFORMED, None
    ),
    "two-lengths": Row(Answer(extra=(("Content-Length", "5"),)), 503, MALFORMED, None),
    "2000-headers": Row(Answer(extra=LONG), 503, MALFORMED, None),
    "400": Row(busy(400), 502, "upstream answered out of turn", 400),
    "401": Row(Answer(status=401, body=b"canary"), 502, DENIED, 401),
    "403": Row(Answer(status=403, body=b"canary"), 502, DENIED, 403),
    "407": Row(Answer(status=407, body=b"canary"), 502, DENIED, 407),
    "418": Row(Answer(status=418, body=b"canary"), 502, "upstream answered out of turn", 418),
    "captive-portal": Row(Answer(body=b"<html>log in, canary", headers={"Content-Type": "text/html"}), 502, SIZE),
    "less-than-listed": Row(Answer(body=b"short"), 502, SIZE),
    "wrong-hash": Row(Answer(corrupt=SMALL - 9), 502, WRONG),
    "wrong-hash-chunked": Row(Answer(corrupt=0, framing="chunked"), 502, WRONG),
    "redirect-nowhere": Row(Answer(status=302, body=b""), 502, "a redirect that leads nowhere", 302),
    "redirect-loop": Row(in_circles, 502, "more redirects than allowed", None),
    "redirect-to-no-host": Row(redirect("http://[canary/"), 502, "no valid host in a URL", None),
    "redirect-to-a-file": Row(redirect("file:///etc/passwd"), 502, "neither http nor https", None),
    "redirect-to-link-local": Row(redirect("http://169.254.169.254/canary"), 502, REFUSED, None),
    "redirect-to-a-private-host": Row(redirect("http://10.0.0.1/canary"), 502, REFUSED, None),
    "404": Row(Answer(status=404, body=b"canary"), 503, LACKS, 404),
    "410": Row(Answer(status=410, body=b"canary"), 503, LACKS, 410),
}


@pytest.mark.parametrize("at_hand", [True, False], ids=["here-already", "nothing-stored"])
@pytest.mark.parametrize("fault", ROWS)
def test_row(here: World, after: Aftermath, fault: str, at_hand: bool) -> None:
    """What is here is served unasked. Else a clean failure, never 404 while its page lists it, with a time to come
    again; nothing kept, nothing of the upstream shown; when it is well again, the file is right."""
    row, file = ROWS[fault], here.cold(SMALL)
    path = here.path_of(file)
    if at_hand:
        assert right(here.file(file), file)
        eventually(lambda: here.file(file).hit, "it is kept")
    here.script_file(file, row.behaviour)
    asked, ledger = len(here.file_requests(file)), Ledger(here)
    got = here.file(file)
    if at_hand:
        assert right(got, file)
        assert len(here.file_requests(file)) == asked
        after.settled()
        return
    assert (got.status, got.complete) == (row.status, True)
    assert b"canary" not in got.body
    assert "canary" not in str(got.headers)
    assert 1 <= int(got.headers["retry-after"]) <= 10
    line = ledger.answered(path, row.status, "error", (row.because,), "file")
    assert line["upstream_status"] == row.answered
    assert line["upstream_seconds"] > 0
    after.settled()
    assert not here.kept(file)
    assert ledger.moved(KEPT, room="wheels") == 0
    here.script_file(file)
    # Kept, too, so that the next test does not see it counted.
    eventually(lambda: (got := here.file(file)).hit and right(got, file), "the file is served")


# --- bytes have left


@pytest.mark.parametrize("framing", ["length", "chunked", "close", "gzip", "reset", "wrong-hash", "stall"])
def test_bytes_have_left(here: World, after: Aftermath, framing: str) -> None:
    """Of a larger file whose rest does not come either: the connection is cut, and nobody can take what came for it."""
    file = here.cold()
    others: dict[str, dict[str, Any]] = {
        "gzip": {"compressed": True}, "reset": {"ending": "reset"}, "wrong-hash": {"corrupt": BIG - 1},
        "stall": {"stall_after": 200_000, "gate": Gate()},
    }  # fmt: skip
    how = others.get(framing, {"framing": framing})
    stop: dict[str, Any] = {} if framing in ("wrong-hash", "stall") else {"stop_after": 200_000}
    here.script_file(file, Answer(**stop, **how), busy(500))
    ledger = Ledger(here)
    got = here.file(file)
    assert not (got.status == 200 and got.complete)
    assert got.body == b"".join(file.body.read(0, len(got.body))) or got.status in (502, 503)
    assert len(got.body) < file.size
    here.proxy.wait_for_log(lambda lines: any(each.get("path") == here.path_of(file) for each in lines))
    (line,) = here.proxy.requests(here.path_of(file))
    assert line["aborted"] is (got.status == 200)
    cut_ones = "pipcacheproxy_cut_responses_total"
    eventually(lambda: ledger.moved(cut_ones, kind="file") == line["aborted"], "it is counted")
    after.settled()
    assert not here.kept(file)
    assert ledger.moved(KEPT, room="wheels") == 0
    here.script_file(file)
    # Kept, too, so that the next test does not see it counted.
    eventually(lambda: (got := here.file(file)).hit and right(got, file), "the file is served")


def test_all_followers_of_a_corrupt_fill_are_cut(here: World, after: Aftermath) -> None:
    """Whoever followed the fill gets no complete body; one upstream request was made for all."""
    file, gate = here.cold(), Gate()
    here.script_file(file, Answer(corrupt=250_000, stall_after=100_000, gate=gate), polite)
    url = f"{here.proxy.url}{here.path_of(file)}"

    def follow(receiving: Event) -> Fetched:
        return fetch(url, progress=lambda _: receiving.set())

    with ThreadPoolExecutor(8) as pool:
        following = [Event() for _ in range(8)]
        jobs = [pool.submit(follow, told) for told in following]
        assert all(told.wait(20) for told in following)
        gate.open()
        assert not any(job.result().complete for job in jobs)
    assert len(here.file_requests(file)) == 1
    after.settled()
    assert not here.kept(file)


def test_wrong_bodies_rest(here: World, after: Aftermath) -> None:
    """The next request goes past caches; after a second wrong body the third is told to wait, unasked."""
    file = here.cold()
    here.script_file(file, Answer(corrupt=BIG - 1))
    for _ in range(2):
        got = here.file(file)
        assert not got.complete
        assert got.body == b"".join(file.body.read(0, len(got.body)))
    got = here.file(file)
    assert (got.status, got.headers["retry-after"]) == (503, "10")
    assert [each.headers.get("cache-control") for each in here.file_requests(file)] == [None, "no-cache"]
    # Who was cut was told nothing: the log says why.
    eventually(lambda: sum(each["aborted"] for each in here.proxy.requests(here.path_of(file))) == 2, "both are logged")
    lines = [each for each in here.proxy.requests(here.path_of(file)) if each["aborted"]]
    assert {each["because"] for each in lines} == {WRONG}
    after.settled()


# --- a host that cannot be reached at all


@pytest.mark.parametrize("way", ["refused", "blackholed", "tls"])
def test_a_host_out_of_reach(here: World, after: Aftermath, way: str) -> None:
    """Where the page's link leads to: 503, and the file once its link leads to a host that is there."""
    file = here.publish(wheel(fresh_name("far")))
    with blackhole() as black, socket.create_server(("127.0.0.1", 0)) as gone:
        refusing = gone.getsockname()[1]
        gone.close()
        host = here.upstream.files_url.partition("://")[2]
        there = {
            "refused": f"http://127.0.0.1:{refusing}", "blackholed": f"http://127.0.0.1:{black}", "tls": f"https://{host}",
        }[way]  # fmt: skip
        page = json.dumps({
            "meta": {"api-version": "1.1"}, "name": file.project,
            "files": [{"filename": file.filename, "url": f"{there}/{file.filename}", "hashes": {"sha256": file.sha256}}]
        })  # fmt: skip
        here.script(file.project, instead(page.encode(), JSON_V1))
        path = f"/files/test/{there.partition('://')[2]}/{file.filename}"
        assert here.page(file.project).status == 200
        ledger = Ledger(here)
        got = here.get(path)
        assert (got.status, got.headers["retry-after"]) == (503, "2")
        because = ("no connection", "no trusted TLS connection", "no answer in time")
        assert ledger.answered(path, 503, "error", because, "file")["upstream_status"] is None
        after.settled()
    here.script(file.project)
    assert here.page(file.project, {"Cache-Control": "no-cache"}).status == 200
    assert right(here.file(file), file)


# --- what installers make of it


def test_no_installer_takes_a_corrupt_wheel(here: World, installer: Installer, fresh: Callable[[], Fresh]) -> None:
    """The installer sees a broken download, never a wrong file; the next healthy attempt works at once.

    uv makes that attempt itself, though it is told not to.
    """
    name = fresh_name("thing").replace("-", "")
    made = here.publish(wheel(name, padding=BIG))
    here.script_file(made, Answer(corrupt=280_000), polite)
    client = fresh()
    client.environment["UV_HTTP_RETRIES"] = "0"
    first = installer.install(client, here.proxy.index_url, name, extra=ONCE[installer.name])
    assert "hash" not in first.stdout.lower()
    assert "error" in first.stdout.lower() or installer.pip is None
    if first.returncode != 0:
        assert not here.kept(made)
        again = installer.install(client, here.proxy.index_url, name)
        assert again.returncode == 0, again.stdout
    assert client.version_of(name) == "1.0"
    assert len(here.file_requests(made)) == 2
    eventually(lambda: here.kept(made), "the file is kept")


@pytest.mark.parametrize("ending", ["close", "reset"])
def test_no_installer_takes_a_short_wheel(
    here: World, ending: Ending, installer: Installer, fresh: Callable[[], Fresh]
) -> None:
    """An upstream that always cuts: the install fails and nothing is kept; once it is well, the next works.

    It cuts so early that two attempts to resume do not make it whole.
    """
    name = fresh_name("thing").replace("-", "")
    made = here.publish(wheel(name, padding=BIG))
    here.script_file(made, cut(50_000, ending))
    client = fresh()
    client.environment["UV_HTTP_RETRIES"] = "0"
    first = installer.install(client, here.proxy.index_url, name, extra=ONCE[installer.name])
    assert first.returncode != 0, first.stdout
    assert "hash" not in first.stdout.lower()
    assert not here.kept(made)
    here.script_file(made)
    again = installer.install(client, here.proxy.index_url, name)
    assert again.returncode == 0, again.stdout
    assert client.version_of(name) == "1.0"
