"""How long pages live, and what is served when they have outlived it or the upstream fails.

An upstream that says ``max-age=0`` makes a page stale at once: nothing here waits for time to pass.
"""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path

import pytest

from tests.harness.behaviours import Answer, Behaviour, Raw, busy, polite
from tests.harness.exchange import Gate
from tests.harness.fetch import Fetched
from tests.harness.index import JSON_V1, MODIFIED
from tests.harness.packages import wheel
from tests.harness.waiting import eventually
from tests.harness.world import AS_JSON, HTML, World, fresh_name, world

STALE_AFTER = 0.5
FIRST_BYTE = 2.0
STALE = {"Cache-Control": "max-age=0"}
LONG_STALE = {**STALE, "Age": "100"}
SETTINGS = {
    "freshness": {"stale_after": f"{STALE_AFTER}s", "min_reload_interval": "0s"},
    "limits": {"first_byte_timeout": f"{FIRST_BYTE}s"},
}
PIP_23 = "pip/23.2 {}"
PIP_26 = "pip/26.3 {}"


@pytest.fixture(scope="module")
def here(lane: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One proxy that most tests share."""
    with world(tmp_path_factory.mktemp("freshness"), SETTINGS) as made:
        yield made


def project(here: World, *behaviours: Behaviour, kind: str = "project") -> str:
    """A new project with one wheel, whose page the upstream serves so."""
    name = fresh_name(kind)
    here.publish(wheel(name))
    here.script(name, *behaviours)
    return name


def stored(here: World, *behaviours: Behaviour, kind: str = "project") -> tuple[str, Fetched]:
    """The same, asked for once; and what came."""
    name = project(here, *behaviours, kind=kind)
    got = here.page(name)
    assert got.status == 200
    return name, got


def status_of(got: Fetched) -> set[str]:
    """The members of Cache-Status, without numbers that change."""
    return {part.strip() for part in got.headers["cache-status"].split(";")[1:] if "ttl=" not in part}


def fell_back(got: Fetched) -> bool:
    """Whether it is a page stored of LONG_STALE, said as RFC 9211 §2 has it: "hit" and "fwd" exclude each other,
    and a negative ttl tells how stale it is."""
    return re.match(r"pip-cache-proxy; hit; ttl=-1\d\d; detail=\"[^\"]+\"$", got.headers["cache-status"]) is not None


# --- hits and revalidation


def test_a_fresh_page_is_a_hit(here: World) -> None:
    """Within max-age the upstream is not asked again, whatever the format."""
    name, first = stored(here)
    again = here.page(name)
    assert (again.hit, again.body, again.headers["etag"]) == (True, first.body, first.headers["etag"])
    assert here.page(name, {"Accept": HTML}).hit
    assert len(here.page_requests(name)) == 1
    line = here.proxy.wait_for_log(lambda lines: len([each for each in lines if name in str(each)]) == 3)[-1]
    assert (line["outcome"], line["because"]) == ("hit", "fresh by max-age")


@pytest.mark.parametrize(
    ("without", "condition"), [((), "if-none-match"), (("ETag",), "if-modified-since")], ids=["etag", "date"]
)
def test_a_stale_page_is_revalidated(here: World, without: tuple[str, ...], condition: str) -> None:
    """One conditional request; the 304 keeps the page and its ETag."""
    name, first = stored(here, Answer(headers=STALE, without=without))
    again = here.page(name)
    assert (again.body, again.headers["etag"]) == (first.body, first.headers["etag"])
    assert {"fwd=stale", "fwd-status=304"} <= status_of(again)
    asked = here.page_requests(name)
    assert len(asked) == 2
    assert condition not in asked[0].headers
    if condition == "if-modified-since":
        assert asked[1].headers[condition] == MODIFIED
    else:
        assert asked[1].headers[condition].startswith('"')


def test_a_304_brings_new_freshness(here: World) -> None:
    """RFC 9111 §4.3.4: what it says of its life counts from then on."""
    name, _ = stored(here, Answer(headers=STALE), Answer(headers={"Cache-Control": "max-age=600"}))
    assert "fwd-status=304" in status_of(here.page(name))
    assert here.page(name).hit
    assert len(here.page_requests(name)) == 2


def test_the_same_page_again_keeps_its_etag(here: World) -> None:
    """An upstream without validators sends all of it again: equal bytes are an equal ETag, clients get their 304."""
    name, first = stored(here, Answer(headers=STALE, without=("ETag", "Last-Modified")))
    again = here.page(name)
    assert "fwd-status=200" in status_of(again)
    assert (again.headers["etag"], again.body) == (first.headers["etag"], first.body)
    assert here.page(name, {"If-None-Match": first.headers["etag"]}).status == 304
    assert not {"if-none-match", "if-modified-since"} & set(here.page_requests(name)[1].headers)


def test_a_changed_page_replaces_the_old_one(here: World) -> None:
    """New bytes, new ETag, new links that work; the old ETag gets all of the new page."""
    name, first = stored(here, Answer(headers=STALE))
    made = here.publish(wheel(name, "2.0"))
    got = here.page(name, {"If-None-Match": first.headers["etag"]})
    assert got.status == 200
    assert got.headers["etag"] != first.headers["etag"]
    assert made.filename.encode() in got.body
    assert here.file(made).sha256 == made.sha256


def dated(name: str, seconds: int) -> Raw:
    """A page that its upstream made so many seconds ago, fresh for ten minutes."""
    document = {"meta": {"api-version": "1.1"}, "name": name, "files": [], "versions": []}
    body = json.dumps(document).encode()
    date = formatdate(time.time() - seconds, usegmt=True)
    head = f"HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Type: {JSON_V1}\r\nCache-Control: max-age=600\r\n"
    return Raw(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)


@pytest.mark.parametrize("by", ["Age", "Date"])
def test_age_date_and_life(here: World, by: str) -> None:
    """Clients count from Date, or with Age: both are upstream's, and max-age is not diminished by them."""
    name = fresh_name()
    here.publish(wheel(name))
    old = Answer(headers={"Cache-Control": "public, max-age=600", "Age": "100"})
    here.script(name, old if by == "Age" else dated(name, 100))
    for got in (here.page(name), here.page(name)):
        assert 100 <= int(got.headers["age"]) <= 110
        assert got.headers["cache-control"] == "max-age=600"
        age = time.time() - parsedate_to_datetime(got.headers["date"]).timestamp()
        assert (100 if by == "Date" else 0) - 1 <= age <= (110 if by == "Date" else 10)
    ttl = int(got.headers["cache-status"].partition("ttl=")[2].partition(";")[0])
    assert 490 <= ttl <= 500
    assert len(here.page_requests(name)) == 1


@pytest.mark.parametrize(
    ("headers", "control", "hit"),
    [
        ({"Cache-Control": "max-age=600", "Age": "600"}, "max-age=600", False),
        ({"Cache-Control": "max-age=10, s-maxage=600", "Age": "11"}, "max-age=10", True),
        ({"Cache-Control": "max-age=999999999"}, "max-age=86400", True),
        ({"Cache-Control": "no-cache"}, "no-cache", False),
        ({"Cache-Control": "max-age=banana"}, "max-age=0", False),
        ({"Cache-Control": "private, max-age=600"}, None, False),
    ],
    ids=["old", "s-maxage", "capped", "no-cache", "invalid", "private"],
)
def test_what_upstream_says_of_life(here: World, headers: Mapping[str, str], control: str | None, hit: bool) -> None:
    """Explicit freshness is obeyed and capped; doubt means ask."""
    name, first = stored(here, Answer(headers=headers))
    assert here.page(name).hit is hit
    if control is not None:
        assert control in first.headers["cache-control"]


# --- stale while it is revalidated


def test_stale_while_revalidate_by_directive(here: World) -> None:
    """The stale page at once, although the upstream rests; the new one behind, asked for once."""
    gate = Gate()
    stale = {"Cache-Control": "max-age=0, stale-while-revalidate=60"}
    name, first = stored(here, Answer(headers=stale), Answer(headers=stale, held=gate), polite)
    made = here.publish(wheel(name, "2.0"))
    for _ in range(3):
        got = here.page(name)
        assert got.body == first.body
        assert "hit" in status_of(got)
    assert gate.reached.wait(20)
    assert len(here.page_requests(name)) == 2
    gate.open()
    eventually(lambda: made.filename.encode() in here.page(name).body, "the new page is served")


@pytest.fixture
def own(tmp_path: Path) -> Iterator[World]:
    """A proxy that serves stale pages while it asks for new ones, and treats reloads as by default."""
    with world(tmp_path, {"freshness": {"stale_while_revalidate": "1h", "negative_ttl": "0s"}}) as made:
        yield made


def test_settings_of_one_proxy(own: World) -> None:
    """Stale-while-revalidate by setting, where an upstream's own directive wins; a memory of 404 that is none."""
    name, first = stored(own, Answer(headers=STALE))
    made = own.publish(wheel(name, "2.0"))
    assert own.page(name).body == first.body
    eventually(lambda: made.filename.encode() in own.page(name).body, "the new page is served")
    name, _ = stored(own, Answer(headers={"Cache-Control": "max-age=0, stale-while-revalidate=0"}))
    assert "fwd-status=304" in status_of(own.page(name))
    name = fresh_name("missing")
    assert [own.page(name).status for _ in range(2)] == [404, 404]
    assert len(own.page_requests(name)) == 2
    # The reload rule's interval is 10 s here: validated a moment ago, a page is not asked for again.
    name, _ = stored(own)
    assert all(own.page(name, {"Cache-Control": wish}).hit for wish in ("no-cache", "max-age=0"))
    assert len(own.page_requests(name)) == 1


# --- the upstream fails


@pytest.mark.parametrize("directive", ["must-revalidate", "no-cache", "s-maxage=0"])
def test_what_may_not_be_served_stale(here: World, directive: str) -> None:
    """RFC 9111 §4.2.4: an upstream that forbids stale answers gets its way, with a 503 and not a 404."""
    name, _ = stored(here, Answer(headers={"Cache-Control": f"max-age=0, {directive}"}), busy(503))
    assert here.page(name).status == 503


# --- missing projects


@pytest.mark.parametrize("status", [404, 410])
def test_a_missing_project_is_remembered(here: World, status: int) -> None:
    """404 for all, from one upstream request; a reload asks again."""
    name = fresh_name("missing")
    here.script(name, Answer(status=status, body=b"canary"))
    answers = [here.page(name), here.page(name), here.page(name, {"Accept": HTML}), here.page(name, method="HEAD")]
    assert [each.status for each in answers] == [404] * 4
    assert len(here.page_requests(name)) == 1
    assert not any(b"canary" in each.body for each in answers)
    # The first was given by the upstream just now (and kept), the others are remembered: the log and the header say.
    because = 'detail="the index has no such project"'
    first, *others = answers
    assert first.headers["cache-status"] == f"pip-cache-proxy; fwd=uri-miss; fwd-status=404; stored; {because}"
    assert {each.headers["cache-status"] for each in others} == {f"pip-cache-proxy; hit; {because}"}
    assert [here.line(each)["outcome"] for each in answers[:2]] == ["missing", "negative"]
    here.script(name)
    here.publish(wheel(name))
    assert here.page(name, {"Cache-Control": "no-cache"}).status == 200
    assert here.page(name).status == 200


def test_a_remembered_404_is_not_served_for_a_failure(here: World) -> None:
    """Failure is never 404: asked again while the upstream fails, a missing project is 503."""
    name = fresh_name("missing")
    here.script(name, Answer(status=404, body=b""), busy(503))
    assert here.page(name).status == 404
    assert here.page(name, {"Cache-Control": "no-cache"}).status == 503


# --- what clients wish


@pytest.mark.parametrize(
    ("headers", "asks"),
    [
        ({"Cache-Control": "no-cache"}, True),
        ({"Cache-Control": "max-age=0"}, True),
        ({"Pragma": "no-cache"}, True),
        ({"Cache-Control": "max-age=0", "User-Agent": PIP_26}, True),
        ({"Cache-Control": "no-cache", "User-Agent": PIP_23}, True),
        ({"Cache-Control": "max-age=0", "User-Agent": PIP_23}, False),
        ({"Cache-Control": "max-age=60"}, False),
        ({"Cache-Control": "no-store"}, False),
        ({"Cache-Control": "only-if-cached"}, False),
        ({"Authorization": "Basic Y2FuYXJ5", "Cookie": "a=b"}, False),
    ],
)
def test_reloads(here: World, headers: Mapping[str, str], asks: bool) -> None:
    """A wish for something newer is a collapsed revalidation; what pip before 26.2 always says is no wish."""
    name, first = stored(here)
    got = here.page(name, headers)
    assert (got.status, got.body, got.hit) == (200, first.body, not asks)
    assert len(here.page_requests(name)) == 1 + asks


@pytest.mark.parametrize(("reload", "asks"), [("ignore", 0), ("honour", 1)])
def test_reload_settings(tmp_path: Path, reload: str, asks: int) -> None:
    """Never, or always, whatever the interval."""
    with world(tmp_path, {"freshness": {"reload": reload}}) as here:
        name, _ = stored(here)
        here.page(name, {"Cache-Control": "max-age=0", "User-Agent": PIP_23})
        assert len(here.page_requests(name)) == 1 + asks


def test_only_if_cached(here: World) -> None:
    """RFC 9111 §5.2.1.7: what is fresh, else 504; no upstream is asked, for a page, a file or a list."""
    wish = {"Cache-Control": "only-if-cached"}
    fresh, _ = stored(here)
    stale, _ = stored(here, Answer(headers=STALE))
    file = here.publish(wheel(fresh_name()))
    before = len(here.upstream.log)
    assert here.page(fresh, wish).status == 200
    answers = [here.page(stale, wish), here.page(file.project, wish), here.file(file, wish)]
    answers.append(here.get("/simple/", {**AS_JSON, **wish}))
    assert [each.status for each in answers] == [504] * 4
    # It is the client's own wish: no upstream is to blame, and coming again is no help.
    assert {json.loads(each.body)["blame"] for each in answers} == {"client"}
    assert not any("retry-after" in each.headers for each in answers)
    assert {here.line(each)["outcome"] for each in answers} == {"refused"}
    assert len(here.upstream.log) == before


def test_offline(tmp_path: Path) -> None:
    """Whatever is stored, however old; 503 for the rest; not one connection to the upstream."""
    with world(tmp_path, SETTINGS) as here:
        name, first = stored(here, Answer(headers=STALE))
        forbidding, _ = stored(here, Answer(headers={"Cache-Control": "max-age=0, must-revalidate"}))
        kept, cold = here.publish(wheel(name, "2.0")), wheel(name, "3.0")
        here.publish(cold)
        first = here.page(name)
        assert here.file(kept).status == 200
        eventually(lambda: here.kept(kept), "the file is kept")
        here.proxy.restart(arguments=("--offline",))
        connections = here.upstream.connections
        got = here.page(name, {"Cache-Control": "no-cache"})
        assert (got.status, got.body, got.hit) == (200, first.body, True)
        assert here.page(forbidding).status == 200
        assert here.file(kept).sha256 == kept.sha256
        unlisted = here.get(f"{here.path_of(kept).rpartition('/')[0]}/{name.replace('-', '_')}-9.0-py3-none-any.whl")
        answers = [here.page(fresh_name("missing")), here.file(cold), unlisted, here.get("/simple/")]
        assert [each.status for each in answers] == [503] * 4
        assert all(1 <= int(each.headers["retry-after"]) <= 10 for each in answers)
        assert {json.loads(each.body)["blame"] for each in answers} == {"proxy"}
        assert here.upstream.connections == connections


# --- pages that must not be kept


def test_a_page_that_must_not_be_kept(tmp_path: Path) -> None:
    """Relayed each time, while its listing is kept: a file of it comes down after a restart without a look at it."""
    with world(tmp_path) as here:
        name, first = stored(here, Answer(headers={"Cache-Control": "no-store"}))
        assert here.page(name).body == first.body
        assert len(here.page_requests(name)) == 2
        here.proxy.restart()
        file = here.upstream.index.files_of(name)[0]
        assert here.file(file).sha256 == file.sha256
        assert len(here.page_requests(name)) == 2
        here.script(name, busy(503))
        assert here.page(name).status == 503


# --- many at once


def test_fifty_clients_one_cold_page(here: World) -> None:
    """All are under way before the upstream answers: it is asked once, and all get the same page."""
    gate = Gate()
    name = project(here, Answer(held=gate))
    answers = here.all_at_once(f"/simple/{name}/", 50, gate, [f"Accept: {JSON_V1}"])
    assert {(each.status, each.body) for each in answers} == {(200, answers[0].body)}
    assert sum("collapsed" in each.headers["cache-status"] for each in answers) == 49
    assert len(here.page_requests(name)) == 1


def test_a_client_that_leaves_does_not_end_the_fetch(here: World) -> None:
    """The page is fetched for all: the next client finds it stored."""
    gate = Gate()
    name = project(here, Answer(held=gate))
    with here.connect() as connection:
        connection.sendall(f"GET /simple/{name}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert gate.reached.wait(20)
        connection.shutdown(socket.SHUT_RDWR)
    waiting = threading.Thread(target=here.page, args=(name,))
    waiting.start()
    gate.open()
    waiting.join(20)
    assert here.page(name).hit
    assert len(here.page_requests(name)) == 1
