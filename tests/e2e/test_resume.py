"""Files on a bad upstream day: what a client sees of each fault, and bodies that go on where they broke."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from time import monotonic

import pytest

from tests.harness.behaviours import Answer, Behaviour, busy, cut, hang_up, polite, redirect
from tests.harness.exchange import Exchange, Gate
from tests.harness.fetch import fetch
from tests.harness.hashing import hashing, said
from tests.harness.packages import Distribution, blob, wheel
from tests.harness.server import ProxyServer, Settings
from tests.harness.upstream import Upstream
from tests.harness.waiting import eventually
from tests.harness.world import BIG, SMALL, World, fresh_name, right, world

MIB = 1024 * 1024
# No origin rests here: many faults share one.
SETTINGS: Settings = {
    "freshness": {"min_reload_interval": "0s"},
    "limits": {"idle_timeout": "1s", "range_fill_max": 100_000, "breaker_failures": 1_000_000, "rest_max": "0s"},
}


@pytest.fixture(scope="module")
def plain() -> Upstream:
    """An index whose pages list neither hashes nor sizes."""
    made = Upstream()
    made.index.html_only()
    made.index.hashes = False
    return made


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, plain: Upstream) -> Iterator[World]:
    """One proxy that most tests share."""
    with world(tmp_path_factory.mktemp("resume"), SETTINGS, others={"plain": plain}) as made:
        yield made


def ranges(here: World, file: Distribution) -> list[str | None]:
    """Range of every request for the file."""
    return [each.headers.get("range") for each in here.file_requests(file)]


# --- bodies that go on


@pytest.mark.parametrize("ending", ["reset", "close"])
def test_a_body_that_breaks_goes_on(here: World, ending: str) -> None:
    """The client gets all of a 300 kB wheel whose first connection ended after 100 kB; the rest is asked for."""
    file = here.publish(wheel(fresh_name(), padding=BIG))
    here.script_file(file, cut(100_000, "reset" if ending == "reset" else "close"), polite)
    assert right(here.file(file), file)
    first, rest = ranges(here, file)
    assert (first, rest is not None and rest.startswith("bytes=") and rest.endswith("-")) == (None, True)
    assert int(str(rest)[6:-1]) <= 100_000
    eventually(lambda: here.file(file).hit, "it is kept")
    assert len(here.file_requests(file)) == 2


def test_a_client_reads_on(here: World) -> None:
    """One that has had bytes of a body that breaks gets the others, on the same connection."""
    file, gate, begun = here.cold(), Gate(), Event()
    here.script_file(file, Answer(stall_after=200_000, stop_after=200_000, ending="reset", gate=gate), polite)

    def begin(received: int) -> None:
        if received >= 200_000 - 65_536:
            begun.set()

    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(fetch, f"{here.proxy.url}{here.path_of(file)}", progress=begin)
        assert begun.wait(20)
        gate.open()
        assert right(job.result(), file)
    assert ranges(here, file) == [None, "bytes=200000-"]


def trickles(exchange: Exchange) -> None:
    """100 kB, and then a byte now and then."""
    exchange.head(exchange.polite)
    for piece in exchange.polite.body.read(0, 100_000):
        exchange.body(piece)
    for piece in exchange.polite.body.read(100_000, 100_500):
        for at in range(len(piece)):
            if exchange.stopping.is_set():
                return
            exchange.body(piece[at : at + 1])
            exchange.pause(0.05)
    exchange.ending = "close"


@pytest.mark.parametrize("fault", [Answer(stall_after=100_000, gate=Gate()), trickles], ids=["stall", "trickle"])
def test_a_body_that_comes_to_a_stop_goes_on(here: World, fault: Behaviour) -> None:
    """Nothing for ``idle_timeout``, or next to nothing: the connection is given up, and the rest asked for."""
    file = here.cold()
    here.script_file(file, fault, polite)
    assert right(here.file(file), file)
    first, rest = ranges(here, file)
    assert first is None
    assert 100_000 <= int(str(rest)[6:-1]) < 100_500


# --- a host that is gone


def test_the_file_host_refuses(tmp_path: Path) -> None:
    """No connection at all: 503; the page is still there, and the file as soon as the host is."""
    with world(tmp_path, SETTINGS) as here:
        file = here.cold(SMALL)
        here.upstream.stop()
        got = here.file(file)
        assert (got.status, got.headers["retry-after"]) == (503, "2")
        here.upstream.start()
        assert right(here.file(file), file)


def test_redirects_are_followed(here: World) -> None:
    """Five of them, to another host of the same kind, with the range of a resumed body as well."""
    file = here.cold()
    hops = [f"/hop/{file.project}/{number}" for number in range(5)]
    for here_is, there in zip([here.upstream.path_of(file), *hops], [*hops, f"/end/{file.project}"], strict=False):
        here.upstream.script(here_is, redirect(f"{here.upstream.origin}{there}"))

    def end(exchange: Exchange) -> None:
        if "range" in exchange.seen.headers:
            start = int(exchange.seen.headers["range"][6:-1])
            body = b"".join(file.body.read(start, BIG))
            Answer(status=206, body=body, headers={"Content-Range": f"bytes {start}-{BIG - 1}/{BIG}"})(exchange)
        else:
            Answer(status=200, body=file.body, stop_after=100_000)(exchange)

    here.upstream.script(hops[4], end)
    assert right(here.file(file), file)
    asked = here.upstream.asked(hops[4])
    assert [("range" in each.headers) for each in asked] == [False, True]


# --- a page in place of a file


@pytest.mark.parametrize("kind", ["text/html", "Text/HTML; charset=utf-8", "application/xhtml+xml"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_captive_portal_is_no_file(here: World, plain: Upstream, kind: str, method: str) -> None:
    """Where no hash would prove it, a page is not pinned as the first complete copy of a wheel; nor is its size."""
    file = blob(fresh_name("blob"), size=SMALL)
    plain.index.add(file)
    url = here.proxy.file_url(plain.location(file), "plain")
    plain.script(plain.path_of(file), Answer(body=b"<html>log in, canary", headers={"Content-Type": kind}))
    got = fetch(url, method=method)
    assert (got.status, got.headers["retry-after"]) == (503, "2")
    assert b"canary" not in got.body
    plain.script(plain.path_of(file))
    assert right(fetch(url), file)


def test_a_captive_portal_is_no_range(here: World) -> None:
    """What is relayed is proved by nothing."""
    file = here.cold()
    for status in (200, 206):
        portal = Answer(status=status, headers={"Content-Type": "text/html"})
        here.script_file(file, portal)
        got = here.file(file, {"Range": "bytes=0-99"})
        assert (got.status, got.headers["retry-after"]) == (503, "2")


def test_a_hash_decides(here: World) -> None:
    """A wheel that its server calls a page is a wheel."""
    file = here.cold()
    here.script_file(file, Answer(headers={"Content-Type": "text/html"}))
    assert right(here.file(file), file)


# --- a file that is listed and missing


@pytest.mark.parametrize("status", [404, 410])
@pytest.mark.parametrize("size", [SMALL, BIG])
def test_a_listed_file_that_is_missing(here: World, status: int, size: int) -> None:
    """CDN lag: 503 while its page lists it, one upstream request for a crowd, 200 when it has come."""
    file = here.cold(size)
    here.script_file(file, Answer(status=status, body=b"canary"))
    began = monotonic()
    with ThreadPoolExecutor(10) as pool:
        answers = [here.file(file), *pool.map(lambda _: here.file(file), range(99))]
    assert {(each.status, each.headers["retry-after"]) for each in answers} == {(503, "2")}
    assert not any(b"canary" in each.body for each in answers)
    # One, and one more each time that the two seconds of Retry-After have gone.
    assert 1 <= len(here.file_requests(file)) <= 1 + (monotonic() - began) / 2
    before = len(here.file_requests(file))
    here.script_file(file)
    eventually(lambda: right(here.file(file), file), "it has come")
    assert len(here.file_requests(file)) == before + 1


@pytest.mark.parametrize("status", [404, 410])
@pytest.mark.parametrize("look", [busy(503), hang_up, Answer(body=b"<html>log in")], ids=["503", "nothing", "portal"])
def test_a_missing_file_whose_page_cannot_be_seen(here: World, status: int, look: Behaviour) -> None:
    """Failure is never 404: nobody knows whether the page still lists it."""
    file = here.cold(SMALL)
    here.script_file(file, Answer(status=status, body=b""))
    here.script(file.project, look)
    assert here.file(file).status in (502, 503)


@pytest.mark.parametrize("status", [404, 410])
def test_a_missing_file_that_is_no_longer_listed(here: World, status: int) -> None:
    """Its page has dropped it: that is a 404."""
    file = here.cold(SMALL)
    here.publish(wheel(file.project, "2.0"))
    here.upstream.index.remove(file)
    here.script_file(file, Answer(status=status, body=b""))
    assert here.file(file).status == 404


# --- a range of what has come so far


def test_a_range_that_has_come_already(tmp_path: Path) -> None:
    """While a big file is fetched, what is here of it is not asked for again; the rest is relayed."""
    with world(tmp_path, {"limits": {"range_fill_max": 100_000}}) as here, here.connect() as connection:
        file, gate = here.cold(), Gate()
        here.script_file(file, Answer(stall_after=250_000, gate=gate), polite)
        connection.sendall(f"GET {here.path_of(file)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        assert gate.reached.wait(20)

        def has_come() -> bool:
            got = here.file(file, {"Range": "bytes=1000-1999"})
            assert (got.status, got.body) == (206, b"".join(file.body.read(1000, 2000)))
            assert got.headers["content-range"] == f"bytes 1000-1999/{BIG}"
            return "so far" in got.headers["cache-status"]

        eventually(has_come, "it was in the fill")
        before = len(here.file_requests(file))
        assert has_come()
        assert len(here.file_requests(file)) == before
        got = here.file(file, {"Range": "bytes=-1000"})
        assert (got.status, got.body) == (206, b"".join(file.body.read(BIG - 1000, BIG)))
        assert ranges(here, file)[before:] == [f"bytes={BIG - 1000}-{BIG - 1}"]
        gate.open()


# --- 2.5 GB


class Resets:
    """Every reply whose body is longer ends with RST after ``each`` bytes of it."""

    def __init__(self, each: int) -> None:
        self._each = each

    def __call__(self, exchange: Exchange) -> None:
        (polite if exchange.polite.body.size <= self._each else cut(self._each, "reset"))(exchange)


@pytest.mark.slow
def test_a_wheel_of_2500_mb_that_breaks_every_300(upstream: Upstream, start_proxy: Callable[..., ProxyServer]) -> None:
    """Ten followers, eight breaks: each gets every byte right, each byte is asked for once, memory stays flat."""
    size, each = 2_500_000_000, 300_000_000
    file = blob("big", size=size)
    upstream.index.add(file)
    upstream.script(upstream.path_of(file), Resets(each))
    proxy = start_proxy(upstream)
    assert fetch(f"{proxy.index_url}/big/").status == 200
    before = proxy.rss()
    with ExitStack() as running:
        path = proxy.file_url(upstream.location(file)).removeprefix(proxy.url)
        clients = [running.enter_context(hashing(proxy.host, proxy.port, path, 5)) for _ in range(2)]
        assert [said(each) for each in clients] == ["started"] * 2
        assert [each.communicate()[0].split() for each in clients] == [[file.sha256] * 5] * 2
    assert proxy.peak_rss() - before < 64 * MIB
    asked = upstream.asked(upstream.path_of(file))
    starts = [int(seen.headers.get("range", "bytes=0-")[6:-1]) for seen in asked]
    assert starts == sorted(set(starts))
    assert starts[0] == 0
    assert len(starts) == 9
    # What lay in buffers when a connection was reset was sent once more; that is all.
    assert sum(seen.sent for seen in asked) < size + 8 * 16 * MIB
