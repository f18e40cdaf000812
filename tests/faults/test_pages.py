"""Every way an index can fail a page: what its client sees, what is kept, counted and logged, and what is left behind.

The rows of the table "Upstream faults and what a client sees", for pages, each with and without a last good page.
Most share a proxy whose breaker is off, each with projects of its own; what the breaker does is in ``test_rests``.
"""

from __future__ import annotations

import gzip
import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path

import pytest
import uv

from tests.faults.ledger import KEPT, UPSTREAM_FAILURES, Ledger
from tests.harness.aftermath import Aftermath, control, nothing_left
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
from tests.harness.clients import Fresh, Installer, run
from tests.harness.exchange import Exchange, Gate
from tests.harness.fetch import Fetched
from tests.harness.index import JSON_V1
from tests.harness.naming import Naming
from tests.harness.packages import Distribution, wheel
from tests.harness.server import Settings
from tests.harness.upstream import Upstream
from tests.harness.waiting import eventually
from tests.harness.world import AS_JSON, HTML, World, fresh_name, world

# Stale at once and for long, so that a negative ttl can be seen; with nothing a condition could be made of.
STALE = {"Cache-Control": "max-age=0", "Age": "100"}
GOOD = Answer(headers=STALE, without=("ETag", "Last-Modified"))
KNOWN = Answer(headers=STALE)
STALE_AFTER, FIRST_BYTE, TOTAL = 0.5, 1.0, 2.0
IMPATIENT: Settings = {
    "freshness": {"stale_after": f"{STALE_AFTER}s", "min_reload_interval": "0s"},
    "limits": {"first_byte_timeout": f"{FIRST_BYTE}s", "connect_timeout": "0.5s", "page_timeout": f"{TOTAL}s"},
}


@pytest.fixture(scope="module")
def here(lane: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The proxy that most tests share."""
    with world(tmp_path_factory.mktemp("pages"), IMPATIENT) as made:
        yield made


@pytest.fixture(scope="module")
def after(here: World) -> Iterator[Aftermath]:
    """Of that proxy."""
    with nothing_left(here) as made:
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


# --- the rows


@dataclass(frozen=True, slots=True)
class Row:
    """A fault, and what it leads to. ``because`` is what log, metric and Cache-Status say; ``answered`` the status the
    upstream sent, None where nothing came that is an answer or not all of it in time; ``asked`` how often it is asked
    before that is believed. Where nothing is stored the client sees ``status``; where something is, the last good page
    if it ``falls_back``. ``behind``: the fetch goes on behind the answer."""

    behaviour: Behaviour
    because: str
    answered: int | None = 200
    asked: int = 1
    status: int = 503
    falls_back: bool = True
    behind: bool = False


def raw(status: str, body: bytes, *fields: str) -> Raw:
    """A head with these fields, and this after it."""
    lines = "".join(f"{field}\r\n" for field in fields)
    return Raw(f"HTTP/1.1 {status}\r\nContent-Type: {JSON_V1}\r\n{lines}\r\n".encode() + body)


def to_a_login(exchange: Exchange) -> None:
    """A captive portal's redirect to a page of the same origin that is no project's."""
    redirect("/login")(exchange)


OTHER = b'{"meta": {"api-version": "1.1"}, "name": "somebody-else", "files": [], "versions": []}'
PORTAL = b"<!DOCTYPE html><html><body><form action='/login'><a href='/terms'>terms</a></form></body></html>"
BOMB = gzip.compress(bytes(80 * 2**20))
NEVER_OPENED = Gate()
FAR_AWAY = formatdate(4_000_000_000, usegmt=True)
NO_ANSWER = "connection lost before the answer"
MALFORMED = "a malformed response"
BROKEN = "upstream is overloaded or broken"
SLOW = "upstream is slow"
DENIED = Answer(status=403, body=b"canary", headers={"WWW-Authenticate": "Basic realm=canary"})
LONG = [f"X-{number}: {number}" for number in range(2000)]

ROWS: dict[str, Row] = {
    **{str(status): Row(busy(status), BROKEN, status) for status in (500, 502, 503, 504)},
    "reset": Row(reset_at_once, NO_ANSWER, None, asked=3),
    "hang-up": Row(hang_up, NO_ANSWER, None, asked=3),
    "captive-portal": Row(instead(PORTAL, HTML), "the page names no file"),
    "captive-portal-said-to-be-json": Row(instead(PORTAL, JSON_V1), "the page is not JSON"),
    "captive-portal-elsewhere": Row(to_a_login, "the page names no file"),
    "unparsable": Row(instead(OTHER[:40], JSON_V1), "the page is not JSON"),
    "empty": Row(instead(b"", HTML), "the page names no file"),
    "json-of-another-kind": Row(instead(b"[]", JSON_V1), "the page lacks what a Simple API page must have"),
    "another-api-version": Row(
        instead(OTHER.replace(b"1.1", b"2.0"), JSON_V1), "the page has an API version we cannot read"
    ),
    "no-page": Row(instead(b"\x7fELF", "application/octet-stream"), "the page has a type that is no Simple API page"),
    "wrong-project": Row(instead(OTHER, JSON_V1), "the page is of another project"),
    "no-gzip": Row(Answer(headers={"Content-Encoding": "gzip"}, body=b"no gzip"), "a gzip body that cannot be decoded"),
    "cut": Row(cut(20), "the body was cut"),
    "slow": Row(Answer(held=NEVER_OPENED), SLOW, None, behind=True),
    "stall": Row(Answer(stall_after=10, gate=NEVER_OPENED), SLOW, None, behind=True),
    "trickle": Row(Answer(rate=40), SLOW, None, behind=True),
    "429": Row(busy(429), BROKEN, 429),
    "429-an-hour": Row(busy(429, 3600), BROKEN, 429),
    "429-a-date": Row(busy(429, FAR_AWAY), BROKEN, 429),
    "503-a-day": Row(busy(503, 86_400), BROKEN, 503),
    "400": Row(busy(400), "upstream answered out of turn", 400, status=502),
    "401": Row(Answer(status=401, body=b"canary"), "upstream refuses access", 401, status=502, falls_back=False),
    "403": Row(Answer(status=403, body=b"canary"), "upstream refuses access", 403, status=502, falls_back=False),
    "407": Row(Answer(status=407, body=b"canary"), "upstream refuses access", 407, status=502, falls_back=False),
    "304-never-asked-for": Row(raw("304 Not Modified", b""), "not modified, without a condition", 304, asked=2),
    "206-to-a-plain-get": Row(
        raw("206 Partial Content", b"{}", "Content-Length: 2", "Content-Range: bytes 0-1/9"), "a part, without a range",
        206, asked=2,
    ),
    "more-than-declared": Row(raw("200 OK", OTHER, "Content-Length: 9"), MALFORMED, None, asked=2),
    "two-lengths": Row(
        raw("200 OK", OTHER, "Content-Length: 9", f"Content-Length: {len(OTHER)}"), MALFORMED, None, asked=2
    ),
    "2000-headers": Row(raw("200 OK", OTHER, *LONG, "Content-Length: 9"), MALFORMED, None, asked=2),
    "bomb": Row(Answer(headers={"Content-Encoding": "gzip"}, body=BOMB), "a gzip body that grows too much", status=502),
    "redirect-nowhere": Row(Answer(status=302, body=b""), "a redirect that leads nowhere", 302, status=502),
    "redirect-loop": Row(
        in_circles, "more redirects than allowed", None, asked=6, status=502
    ),
    "redirect-where-it-may-not": Row(
        redirect("http://192.0.2.1/simple/x/"), "an address this index may not be fetched from", None, status=502
    ),
}  # fmt: skip


@pytest.mark.parametrize("at_hand", [True, False], ids=["last-good", "nothing-stored"])
@pytest.mark.parametrize("fault", ROWS)
def test_row(here: World, after: Aftermath, fault: str, at_hand: bool) -> None:
    """The last good page, said to be stale, else an error that is never 404; and the new page once it is well again."""
    row = ROWS[fault]
    here.upstream.script("/login", instead(PORTAL, HTML))
    name, first = stored(here, row.behaviour) if at_hand else (project(here, row.behaviour)[0], None)
    before, ledger = len(here.page_requests(name)), Ledger(here)
    got = here.page(name)
    assert b"canary" not in got.body
    assert "canary" not in str(got.headers)
    if first is not None and row.falls_back:
        assert last_good(got, first), (got.status, got.headers)
        # What is tried again may take longer than a client waits that can have the last good page.
        ledger.answered(f"/simple/{name}/", 200, "stale", (row.because, SLOW), "page")
    else:
        assert comes_again(got) or (got.status, row.status) == (502, 502), (got.status, got.headers)
        assert got.status == row.status
        assert got.headers["content-type"] == "application/problem+json"
        because = row.because if not row.behind else f"{row.because}, nothing to fall back on"
        line = ledger.answered(f"/simple/{name}/", row.status, "error", (because,), "page")
        # The operator sees what there was of an answer, and how long it took.
        assert line["upstream_status"] == row.answered
        assert line["upstream_seconds"] > 0
        said = "" if row.answered is None else f"fwd=miss; fwd-status={row.answered}; "
        assert got.headers["cache-status"] == f'pip-cache-proxy; {said}detail="{because}"'
    eventually(lambda: len(here.page_requests(name)) - before == row.asked, f"it is asked {row.asked} times")
    after.settled()
    assert ledger.moved(KEPT) == 0
    here.script(name, GOOD)
    made = here.publish(wheel(name, "2.0"))
    eventually(lambda: made.filename.encode() in here.page(name).body, "the new page is served")


# --- no answer in time


def test_a_stored_page_is_there_after_stale_after(here: World, after: Aftermath) -> None:
    """The last good page after about so long; the one fetch goes on behind and is taken."""
    gate = Gate()
    name, first = stored(here, Answer(held=gate))
    made = here.publish(wheel(name, "2.0"))
    began = time.monotonic()
    got = here.page(name)
    assert STALE_AFTER * 0.9 < time.monotonic() - began < STALE_AFTER + 2
    assert last_good(got, first)
    gate.open()
    here.upstream.wait_for(lambda log: all(each.done for each in log if each.path == f"/simple/{name}/"))
    eventually(lambda: made.filename.encode() in here.page(name).body, "the new page is served")
    after.settled()


def test_nothing_stored_waits_for_the_first_byte(here: World, after: Aftermath) -> None:
    """503 after ``first_byte_timeout``; what comes later is kept, and asked for once."""
    gate = Gate()
    name, _ = project(here, Answer(held=gate))
    began = time.monotonic()
    assert comes_again(here.page(name))
    assert FIRST_BYTE * 0.9 < time.monotonic() - began < FIRST_BYTE + 2
    gate.open()
    eventually(lambda: here.page(name).status == 200, "the page is served")
    assert len(here.page_requests(name)) == 1
    after.settled()


# --- an older page


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
    settings: Settings = {"freshness": {"min_reload_interval": "1h"}}
    with world(tmp_path, settings) as here:
        lagging = Answer(headers={**STALE, "X-PyPI-Last-Serial": "9"}, without=("ETag", "Last-Modified"))
        name, first = stored(here, lagging)
        assert all(last_good(here.page(name), first) for _ in range(5))
        assert len(here.page_requests(name)) == 2


# --- 404 and 410


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


UNREACHABLE = {
    "refused": "no connection",
    "blackholed": "no connection",
    "nameless": "the host name cannot be resolved",
    "tls": "no connection",
}


@dataclass(frozen=True, slots=True)
class CutOff:
    """A world whose indexes were well until it was restarted; ``first`` has the page of "kept" at each of them."""

    here: World
    after: Aftermath
    first: Mapping[str, Fetched]


@pytest.fixture(scope="module")
def cut_off(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CutOff]:
    """An index for each way to be out of reach, and "test", which is well."""
    directory = tmp_path_factory.mktemp("cut-off")
    naming = Naming(directory / "names", "gone.example.org")

    def tables(upstream: Upstream) -> dict[str, str]:
        return dict.fromkeys(UNREACHABLE, upstream.url)

    with blackhole() as port, world(directory, IMPATIENT, indexes=tables, environment=naming.environment) as here:
        here.publish(wheel("kept"), wheel("cold"))
        here.script("kept", GOOD)
        first = {way: here.get(f"/index/{way}/simple/kept/", AS_JSON) for way in UNREACHABLE}
        assert {each.status for each in first.values()} == {200}
        with socket.create_server(("127.0.0.1", 0)) as gone:
            refusing = gone.getsockname()[1]
        here.proxy.indexes |= {
            "refused": f"http://127.0.0.1:{refusing}/simple/",
            "blackholed": f"http://127.0.0.1:{port}/simple/",
            "nameless": "http://gone.example.org/simple/",
            "tls": here.upstream.url.replace("http:", "https:"),
        }
        naming.lose()
        here.proxy.restart()
        yield CutOff(here, Aftermath(here.proxy, *control(here)), first)


@pytest.mark.parametrize("at_hand", [True, False], ids=["last-good", "nothing-stored"])
@pytest.mark.parametrize("way", UNREACHABLE)
def test_an_index_out_of_reach(cut_off: CutOff, way: str, at_hand: bool) -> None:
    """From a restart on: the last good page, else 503."""
    here, path = cut_off.here, f"/index/{way}/simple/{'kept' if at_hand else 'cold'}/"
    ledger = Ledger(here)
    got = here.get(path, AS_JSON)
    if at_hand:
        assert last_good(got, cut_off.first[way])
        ledger.answered(path, 200, "stale", (UNREACHABLE[way], SLOW), "page")
    else:
        assert comes_again(got)
        because = (UNREACHABLE[way], f"{SLOW}, nothing to fall back on")
        assert ledger.answered(path, 503, "error", because, "page")["upstream_status"] is None
    cut_off.after.settled()
    assert ledger.moved(UPSTREAM_FAILURES, index=way) > 0
    assert ledger.moved(KEPT) == 0


# --- what installers make of it


def test_installers_come_again(here: World, installer: Installer, fresh: Callable[[], Fresh]) -> None:
    """A 503 is nothing they give up at: told when to come again, they do so by themselves."""
    name, _ = project(here, busy(503), polite)
    done = installer.install(fresh(), here.proxy.index_url, name)
    assert done.returncode == 0, done.stdout
    assert len(here.page_requests(name)) == 2


def test_installers_are_given_the_last_good_page(here: World, installer: Installer, fresh: Callable[[], Fresh]) -> None:
    """They install as if nothing were wrong, and are not told to wait."""
    name, _ = stored(here, busy(500))
    done = installer.install(fresh(), here.proxy.index_url, name)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("fault", "goes_on"), [(Answer(status=404, body=b""), True), (DENIED, False)], ids=["404", "403"]
)
def test_uv_goes_on_to_another_index_only_at_a_404(
    here: World, fresh: Callable[[], Fresh], tmp_path: Path, fault: Behaviour, goes_on: bool
) -> None:
    """What is no 404 must not make it take the project of that name from whoever else has one."""
    name, _ = project(here, fault)
    with Upstream(wheel(name, "6.6.6")) as other:
        extra = ("--index", here.proxy.index_url, "--default-index", other.url)
        client = fresh()
        client.environment["UV_HTTP_RETRIES"] = "0"
        command: list[str | Path] = [uv.find_uv_bin(), "pip", "install", "--python", client.python, *extra, name]
        done = run(command, client.environment)
        assert (done.returncode == 0) is goes_on, done.stdout
        assert (other.log != []) is goes_on
