"""A bad upstream day: every way an index can fail a page, and what a client sees of it.

Most tests share a proxy whose breaker is off, each with projects of its own; what the breaker does is told by the
upstream's log, with intervals so long (or so short) that no test depends on how fast it runs.
"""

from __future__ import annotations

import gzip
import json
import random
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path

import pytest

from tests.harness.behaviours import Answer, Behaviour, Raw, busy, cut, hang_up, polite, redirect, reset_at_once
from tests.harness.exchange import Gate
from tests.harness.fetch import Fetched
from tests.harness.index import JSON_V1
from tests.harness.packages import Distribution, wheel
from tests.harness.server import ProxyServer, Settings
from tests.harness.upstream import Upstream
from tests.harness.waiting import eventually
from tests.harness.world import AS_JSON, HTML, World, fresh_name, world

# Stale at once and for long, so that a negative ttl can be seen; with nothing a condition could be made of.
STALE = {"Cache-Control": "max-age=0", "Age": "100"}
GOOD = Answer(headers=STALE, without=("ETag", "Last-Modified"))
KNOWN = Answer(headers=STALE)
IMPATIENT = {
    "freshness": {"stale_after": "0.5s", "min_reload_interval": "0s"},
    "limits": {"first_byte_timeout": "1.5s", "connect_timeout": "0.5s"},
}
NEVER = "1h"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The proxy that most tests share."""
    with world(tmp_path_factory.mktemp("bad-day"), IMPATIENT) as made:
        yield made


def project(here: World, *behaviours: Behaviour) -> tuple[str, Distribution]:
    """A new project and its wheel, whose page the upstream serves so."""
    name = fresh_name("bad")
    file = here.publish(wheel(name))
    here.script(name, *behaviours)
    return name, file


def stored(here: World, *then: Behaviour, first: Behaviour = GOOD) -> tuple[str, Fetched]:
    """A project whose page was served once, is stale, and is served so from now on; and what came."""
    name, _ = project(here, first)
    got = here.page(name)
    assert got.status == 200
    here.script(name, *then)
    return name, got


def last_good(got: Fetched, first: Fetched) -> bool:
    """Whether it is the stored page, said to be stale: RFC 9211 §2 has "hit" and a negative ttl for that."""
    said = got.headers.get("cache-status", "")
    return (got.status, got.body) == (200, first.body) and said.startswith("pip-cache-proxy; hit; ttl=-1")


def comes_again(got: Fetched) -> bool:
    """Whether it is a 503 that says when to come again, in whole seconds that no installer sleeps over."""
    return got.status == 503 and got.headers["retry-after"].isdigit() and 1 <= int(got.headers["retry-after"]) <= 10


# --- the first table, row by row


def instead(body: bytes, content_type: str, headers: Mapping[str, str] | None = None) -> Answer:
    """200 with this in the page's place."""
    fields = {"Content-Type": content_type, **(headers or {})}
    dropped = ("Content-Encoding", "ETag", "Last-Modified", "X-PyPI-Last-Serial")
    without = tuple(name for name in dropped if name not in fields)
    return Answer(status=200, body=body, headers=fields, without=without)


def raw(status: str, body: bytes, *fields: str) -> Raw:
    """A head with these fields, and this after it."""
    lines = "".join(f"{field}\r\n" for field in fields)
    return Raw(f"HTTP/1.1 {status}\r\nContent-Type: {JSON_V1}\r\n{lines}\r\n".encode() + body)


OTHER = b'{"meta": {"api-version": "1.1"}, "name": "somebody-else", "files": [], "versions": []}'
PORTAL = b"<!DOCTYPE html><html><body><form action='/login'><a href='/terms'>terms</a></form></body></html>"
BOMB = gzip.compress(bytes(80 * 2**20))
NEVER_OPENED = Gate()

# What an index does to a page, and how often it is asked then where nothing is stored (0: it does not matter).
FAULTS: dict[str, tuple[Behaviour, int]] = {
    "500": (busy(500), 1),
    "502": (busy(502), 1),
    "503": (busy(503), 1),
    "504": (busy(504), 1),
    "reset": (reset_at_once, 3),
    "hang-up": (hang_up, 3),
    "captive-portal": (instead(PORTAL, HTML), 1),
    "captive-portal-said-to-be-json": (instead(PORTAL, JSON_V1), 1),
    "unparsable": (instead(OTHER[:40], JSON_V1), 1),
    "no-page": (instead(b"\x7fELF", "application/octet-stream"), 1),
    "wrong-project": (instead(OTHER, JSON_V1), 1),
    "no-gzip": (Answer(headers={"Content-Encoding": "gzip"}, body=b"no gzip"), 1),
    "cut": (cut(20), 1),
    "slow": (Answer(held=NEVER_OPENED), 1),
    "stall": (Answer(stall_after=10, gate=NEVER_OPENED), 1),
    "trickle": (Answer(rate=40), 1),
    "429": (busy(429), 1),
    "429-an-hour": (busy(429, 3600), 1),
    "429-a-date": (busy(429, formatdate(4_000_000_000, usegmt=True)), 1),
    "503-a-day": (busy(503, 86_400), 1),
    "304-never-asked-for": (raw("304 Not Modified", b""), 2),
    "206-to-a-plain-get": (raw("206 Partial Content", b"{}", "Content-Length: 2", "Content-Range: bytes 0-1/9"), 2),
    "more-than-declared": (raw("200 OK", OTHER, "Content-Length: 9"), 2),
    "two-lengths": (raw("200 OK", OTHER, "Content-Length: 9", f"Content-Length: {len(OTHER)}"), 2),
    "2000-headers": (raw("200 OK", OTHER, *(f"X-{n}: {n}" for n in range(2000)), "Content-Length: 9"), 2),
}


# The status of what came is told, but of what is no answer at all, or not all here in time.
NO_ANSWER = ("reset", "hang-up", "slow", "stall", "trickle", "more-than-declared", "two-lengths", "2000-headers")
ANSWERED = {name: int(name[:3]) if name[:3].isdigit() else 200 for name in FAULTS} | dict.fromkeys(NO_ANSWER)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_stored_page(here: World, fault: str) -> None:
    """The last good page, said to be stale; the new one once the upstream is well again."""
    behaviour, _ = FAULTS[fault]
    name, first = stored(here, behaviour)
    got = here.page(name)
    assert last_good(got, first), (got.status, got.headers)
    assert len(here.page_requests(name)) > 1
    here.script(name, GOOD)
    if fault not in ("slow", "stall", "trickle"):  # whose fetch goes on behind
        made = here.publish(wheel(name, "2.0"))
        # A look that was tried again may still be under way, later than a client waits.
        eventually(lambda: made.filename.encode() in here.page(name).body, "the new page is served")


@pytest.mark.parametrize("fault", FAULTS)
def test_no_stored_page(here: World, fault: str) -> None:
    """503 with Retry-After, never 404; a protocol error is asked again once, a lost connection twice."""
    behaviour, asked = FAULTS[fault]
    name, _ = project(here, behaviour)
    got = here.page(name)
    assert comes_again(got), (got.status, got.headers)
    assert got.headers["content-type"] == "application/problem+json"
    assert len(here.page_requests(name)) == asked
    # The operator sees what there was of an answer, and how long it took.
    line, answered = here.line(got), ANSWERED[fault]
    assert line["upstream_status"] == answered
    assert line["upstream_seconds"] > 0
    assert got.headers["cache-status"].startswith(
        'pip-cache-proxy; detail="' if answered is None else f"pip-cache-proxy; fwd=miss; fwd-status={answered}; "
    )


@pytest.mark.parametrize(
    ("behaviour", "answered"),
    [(busy(500), 500), (Answer(status=403, body=b""), 403), (Answer(status=404, body=b""), 404), (hang_up, None),
     (instead(PORTAL, HTML), 200), (Answer(corrupt=0), 200)],
    ids=["500", "403", "404", "hang-up", "captive-portal", "corrupt"],
)  # fmt: skip
def test_no_file(here: World, behaviour: Behaviour, answered: int | None) -> None:
    """What came in a file's place is told as well."""
    name, file = project(here, GOOD)
    assert here.page(name).status == 200
    here.script_file(file, behaviour)
    got = here.file(file)
    line = here.line(got)
    assert got.status in (502, 503)
    assert (line["status"], line["upstream_status"]) == (got.status, answered)
    assert line["upstream_seconds"] > 0


def login_page(here: World) -> str:
    """Where a captive portal leads to: a page of the same origin that is no project's."""
    here.upstream.script("/login", instead(PORTAL, HTML))
    return f"{here.upstream.origin}/login"


REFUSED: dict[str, tuple[Behaviour, bool]] = {
    "bomb": (Answer(headers={"Content-Encoding": "gzip"}, body=BOMB), True),
    "redirect-nowhere": (Answer(status=302, body=b""), True),
    "redirect-loop": (lambda exchange: redirect(exchange.seen.path)(exchange), True),
    "redirect-where-it-may-not": (redirect("http://192.0.2.1/simple/x/"), True),
    "401": (Answer(status=401, body=b"canary", headers={"WWW-Authenticate": "Basic realm=canary"}), False),
    "403": (Answer(status=403, body=b"canary"), False),
    "407": (Answer(status=407, body=b"canary"), False),
}


REFUSED_STATUS = {"bomb": 200, "redirect-nowhere": 302}


@pytest.mark.parametrize("fault", REFUSED)
def test_502(here: World, fault: str) -> None:
    """What we refuse to take, and what refuses us: 502 where nothing is stored. A refusal of access is an answer, also
    where something is."""
    behaviour, falls_back = REFUSED[fault]
    cold, _ = project(here, behaviour)
    name, first = stored(here, behaviour)
    for got in (here.page(cold), here.page(name)):
        assert b"canary" not in got.body
        assert "canary" not in str(got.headers)
        if falls_back and got.status == 200:
            assert last_good(got, first)
        else:
            assert got.status == 502
    got = here.page(cold)
    assert got.status == 502
    assert here.line(got)["upstream_status"] == (int(fault) if fault.isdigit() else REFUSED_STATUS.get(fault))
    assert last_good(here.page(name), first) is falls_back


def test_a_portal_that_redirects(here: World) -> None:
    """A login page at the end of a redirect is no page of the project either."""
    away = redirect(login_page(here))
    name, first = stored(here, away)
    assert last_good(here.page(name), first)
    assert comes_again(here.page(project(here, away)[0]))


@pytest.mark.parametrize(
    ("serial", "taken"),
    [(lambda at: "9", False), (lambda at: at - 1, False), (lambda at: at, True), (lambda at: at + 1, True),
     (lambda at: "soon", True)],
    ids=["9", "one-less", "the-same", "one-more", "no-number"],
)  # fmt: skip
def test_a_lower_serial(here: World, serial: Callable[[int], object], taken: bool) -> None:
    """A mirror that lags behind the one before: its page never replaces the newer one; an equal or higher one does."""
    name, first = stored(here, GOOD)
    body = json.dumps({"meta": {"api-version": "1.1"}, "name": name, "files": [], "versions": []}).encode()
    said = str(serial(int(first.headers["x-pypi-last-serial"])))
    here.script(name, instead(body, JSON_V1, {"X-PyPI-Last-Serial": said}))
    got = here.page(name)
    assert (json.loads(got.body)["files"] == []) is taken
    assert taken or last_good(got, first)


def test_a_lower_serial_is_asked_about_now_and_then(tmp_path: Path) -> None:
    """Within ``min_reload_interval`` of a look that found an older page, the stored one is served without another."""
    settings: Settings = {"freshness": {"min_reload_interval": NEVER}}
    with world(tmp_path, settings) as here:
        lagging = Answer(headers={**STALE, "X-PyPI-Last-Serial": "9"}, without=("ETag", "Last-Modified"))
        name, first = stored(here, lagging)
        assert all(last_good(here.page(name), first) for _ in range(5))
        assert len(here.page_requests(name)) == 2


@pytest.mark.parametrize("status", [404, 410])
@pytest.mark.parametrize("back", [True, False], ids=["once", "gone"])
def test_a_page_that_was_good_a_moment_ago(here: World, status: int, back: bool) -> None:
    """Before a 404 is believed it is asked about once more, past caches; the second answer counts, and a 404 is
    remembered."""
    name, first = stored(here, Answer(status=status, body=b""), KNOWN if back else Answer(status=status, body=b""))
    got = here.page(name)
    asked = here.page_requests(name)
    assert (got.status, len(asked)) == (200 if back else 404, 3)
    assert [each.headers.get("cache-control") for each in asked] == [None, None, "no-cache"]
    if back:
        assert got.body == first.body
    else:
        assert [here.page(name).status for _ in range(3)] == [404] * 3
        assert len(here.page_requests(name)) == 3


def test_a_page_that_was_good_and_a_second_answer_that_is_none(here: World) -> None:
    """A failure at the second look is a failure: the last good page."""
    name, first = stored(here, Answer(status=404, body=b""), busy(500))
    assert last_good(here.page(name), first)


def test_a_project_never_seen_is_believed_to_be_missing(here: World) -> None:
    """There is nothing to doubt: one request, 404, remembered."""
    name, _ = project(here, Answer(status=404, body=b""))
    assert [here.page(name).status for _ in range(2)] == [404, 404]
    assert len(here.page_requests(name)) == 1


# --- an index that cannot be reached at all


@contextmanager
def blackhole() -> Iterator[int]:
    """A port of the loopback that answers no SYN: its backlog is full, and nobody accepts."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port = listener.getsockname()[1]
        waiting = [socket.socket() for _ in range(8)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
        yield port
        for each in waiting:
            each.close()


RESOLVER = """
import socket
resolve = socket.getaddrinfo
def getaddrinfo(host, *rest, **options):
    if host == "gone.example.org":
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    return resolve(host, *rest, **options)
socket.getaddrinfo = getaddrinfo
"""


def test_an_index_out_of_reach(tmp_path: Path, upstream: Upstream) -> None:
    """Refused, blackholed, no name, no TLS, from a restart on: the last good page, else 503."""
    (tmp_path / "sitecustomize.py").write_text(RESOLVER)
    ways = ("refused", "blackholed", "nameless", "tls")
    kept, cold = wheel("kept"), wheel("cold")
    upstream.index.add(kept, cold)
    upstream.script("/simple/kept/", GOOD)
    environment = {"PYTHONPATH": str(tmp_path)}
    proxy = ProxyServer(tmp_path, dict.fromkeys(ways, upstream.url), settings=IMPATIENT, environment=environment)
    with blackhole() as port, proxy:
        here = World(proxy, upstream)
        first = {way: here.get(f"/index/{way}/simple/kept/", AS_JSON) for way in ways}
        assert {each.status for each in first.values()} == {200}
        with socket.create_server(("127.0.0.1", 0)) as gone:
            refusing = gone.getsockname()[1]
        proxy.indexes = {
            "refused": f"http://127.0.0.1:{refusing}/simple/",
            "blackholed": f"http://127.0.0.1:{port}/simple/",
            "nameless": "http://gone.example.org/simple/",
            "tls": upstream.url.replace("http:", "https:"),
        }
        proxy.restart()
        for way in ways:
            assert last_good(here.get(f"/index/{way}/simple/kept/", AS_JSON), first[way]), way
            assert comes_again(here.get(f"/index/{way}/simple/cold/", AS_JSON)), way
            assert last_good(here.get(f"/index/{way}/simple/kept/", AS_JSON), first[way]), way


# --- the breaker


def warm(here: World, number: int) -> dict[str, Fetched]:
    """So many projects whose pages are stored and stale."""
    return dict(stored(here, GOOD) for _ in range(number))


def all_fail(here: World, projects: dict[str, Fetched], behaviour: Behaviour) -> None:
    """From now on this is what the upstream does to them; its log begins anew."""
    for name in projects:
        here.script(name, behaviour)
    here.upstream.forget()


@pytest.mark.parametrize(
    ("behaviour", "number", "at_most"),
    # Five failures, and the retries of what was under way then. Or three late ones and a probe, twice.
    [(hang_up, 300, 15), (busy(500), 50, 5), (Answer(held=NEVER_OPENED), 300, 8)],
    ids=["killed", "500", "silent"],
)
def test_many_warm_projects(tmp_path: Path, behaviour: Behaviour, number: int, at_most: int) -> None:
    """G8: with the upstream gone every one is served, and hardly any is asked for; a cold one is told to come again."""
    settings: Settings = {
        "freshness": {"stale_after": "0.3s"},
        "limits": {"probe_interval": NEVER, "breaker_failures": 5, "first_byte_timeout": "1s"},
    }
    with world(tmp_path, settings) as here:
        projects = warm(here, number)
        all_fail(here, projects, behaviour)
        assert all(last_good(here.page(name), first) for name, first in projects.items())
        assert 1 <= len(here.upstream.log) <= at_most
        cold, _ = project(here, behaviour)
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
        bad, _ = project(here, FAULTS[fault][0])
        assert all(comes_again(here.page(bad)) for _ in range(3))
        assert len(here.page_requests(bad)) == 3 * FAULTS[fault][1]
        assert here.page(project(here, polite)[0]).status == 200
        # That was a sign of life, so the count begins anew.
        assert comes_again(here.page(bad))
        assert comes_again(here.page(project(here, FAULTS[fault][0])[0]))
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


# --- rollback


@pytest.mark.parametrize("seed", range(5))
def test_flapping(here: World, seed: int) -> None:
    """G9 over HTTP: behind a mirror of many minds the serial a client sees never goes back, and goes on in the end."""
    chance = random.Random(seed)
    name, _ = project(here, GOOD)
    base = int(here.page(name).headers["x-pypi-last-serial"])
    seen = [base]
    for _ in range(25):
        serial, status = base + chance.randrange(-5, 6), chance.choice([200, 200, 304, 503])
        headers = {**STALE, "X-PyPI-Last-Serial": str(serial), "ETag": f'"{serial}"'}
        here.script(name, Answer(status=status, headers=headers) if status == 200 else _plain(status, headers))
        got = here.page(name)
        assert got.status == 200
        seen.append(int(got.headers["x-pypi-last-serial"]))
    assert seen == sorted(seen)
    here.script(name, Answer(headers={**STALE, "X-PyPI-Last-Serial": str(base + 99)}))
    assert here.page(name).headers["x-pypi-last-serial"] == str(base + 99)


def _plain(status: int, headers: dict[str, str]) -> Answer:
    return Answer(status=status, headers=headers, body=b"")
