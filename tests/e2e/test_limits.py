"""The settings of ``limits`` that bound what one client, one crowd or one upstream can take, seen from outside."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from tests.harness.behaviours import Answer, polite
from tests.harness.exchange import Framing, Gate
from tests.harness.fetch import fetch
from tests.harness.index import JSON_V1
from tests.harness.packages import blob, wheel
from tests.harness.server import Settings
from tests.harness.upstream import Upstream
from tests.harness.waiting import eventually
from tests.harness.world import AS_JSON, Heard, World, fresh_name, listen, world

WAITERS = 3
LIST_MAX = 1_000
UNKNOWN_FILE_MAX = 100_000
LARGER = "the upstream's body is larger than allowed"
LIST_LARGER = "a body larger than allowed"
CROWD = "too many clients wait for the same answer"
# Stale for long, so that a negative ttl can be seen.
STALE = {"Cache-Control": "max-age=0", "Age": "100"}
BEHIND = {"Cache-Control": "max-age=0, stale-while-revalidate=3600"}
LISTS = ("length", "chunked", "length-fits", "chunked-fits", "grown", "behind")


@pytest.fixture(scope="module")
def plain() -> Upstream:
    """An upstream with HTML pages that say no sizes."""
    made = Upstream()
    made.index.html_only()
    return made


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, plain: Upstream) -> Iterator[World]:
    """One proxy with small limits and much patience."""
    settings: Settings = {
        "freshness": {"min_reload_interval": "0s", "stale_after": "20s"},
        "limits": {
            "waiters": WAITERS,
            "list_max": LIST_MAX,
            "unknown_file_max": UNKNOWN_FILE_MAX,
            "first_byte_timeout": "20s",
        },
    }
    with world(
        tmp_path_factory.mktemp("limits"),
        settings,
        others={"plain": plain},
        indexes=lambda upstream: {name: f"{upstream.origin}/{name}/simple/" for name in LISTS},
    ) as made:
        yield made


# --- waiters


def crowd(here: World, path: str, gate: Gate, *, early: int, method: str = "GET") -> list[Heard]:
    """Six answers to one request; the gate opens once ``early`` of them are out, for which nobody had to wait."""
    request = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAccept: {JSON_V1}\r\n\r\n".encode()
    here.proxy.forget()
    with ExitStack() as open_ones, ThreadPoolExecutor(2 * WAITERS) as pool:
        connections = [open_ones.enter_context(here.connect()) for _ in range(2 * WAITERS)]
        for connection in connections:
            connection.sendall(request)
        asked = {"path": path, "because": CROWD}
        here.proxy.wait_for_log(lambda lines: len([each for each in lines if asked.items() <= each.items()]) == early)
        gate.open()
        return list(pool.map(listen, connections))


def told(answers: Sequence[Heard], status: int) -> list[Heard]:
    """Those with that status."""
    return [each for each in answers if each.status == status]


def test_a_crowd_and_a_cold_page(here: World) -> None:
    """As many as may wait get the page, from one request; the others are told at once to come again."""
    name, other, gate = fresh_name(), fresh_name(), Gate()
    here.publish(wheel(name), wheel(other))
    here.script(name, Answer(held=gate))
    answers = crowd(here, f"/simple/{name}/", gate, early=WAITERS)
    assert (len(told(answers, 200)), len(told(answers, 503))) == (WAITERS, WAITERS)
    assert {json.loads(each.body)["because"] for each in told(answers, 503)} == {CROWD}
    assert {each.headers["retry-after"] for each in told(answers, 503)} == {"2"}
    assert [here.page(each).status for each in (name, other)] == [200, 200]
    assert len(here.page_requests(name)) == 1


def test_a_crowd_and_a_stale_page(here: World) -> None:
    """Who may not wait for the new page gets the stored one at once."""
    name, gate = fresh_name(), Gate()
    here.publish(wheel(name))
    here.script(name, Answer(headers=STALE), Answer(held=gate))
    first = here.page(name)
    answers = crowd(here, f"/simple/{name}/", gate, early=WAITERS)
    assert {(each.status, each.body) for each in answers} == {(200, first.body)}
    early = [each.headers["cache-status"] for each in answers if CROWD in each.headers["cache-status"]]
    assert len(early) == WAITERS
    assert all(each.startswith("pip-cache-proxy; hit; ttl=-1") for each in early)
    assert len([each for each in answers if "fwd-status=304" in each.headers["cache-status"]]) == WAITERS
    assert len(here.page_requests(name)) == 2


def test_a_crowd_and_a_page_that_is_refreshed_behind(here: World) -> None:
    """Nobody waits for that: all get the stale page, however many they are."""
    name, gate = fresh_name(), Gate()
    here.publish(wheel(name))
    here.script(name, Answer(headers=BEHIND), Answer(held=gate), polite)
    first = here.page(name)
    answers = [here.page(name) for _ in range(2 * WAITERS)]
    assert {(each.status, each.body) for each in answers} == {(200, first.body)}
    assert gate.reached.wait(20)
    assert len(here.page_requests(name)) == 2
    gate.open()


def listing(headers: Mapping[str, str], size: int = 100, **changes: Any) -> Answer:
    """A project list of that size."""
    body = b'{"meta":{"api-version":"1.0"},"projects":[]}'.ljust(size)
    return Answer(status=200, body=body, headers={"Content-Type": JSON_V1, "ETag": '"list"', **headers}, **changes)


def test_a_crowd_and_a_list_that_is_refreshed_behind(here: World) -> None:
    """The same for a project list."""
    gate = Gate()
    path = "/index/behind/simple/"
    here.upstream.script("/behind/simple/", listing(BEHIND), listing(BEHIND, held=gate))
    first = here.get(path, AS_JSON)
    eventually(lambda: here.get(path, AS_JSON).hit, "the list is kept")
    # The first of them may still have met the fetch that brought the list, and needed no other.
    eventually(lambda: here.get(path, AS_JSON).hit and gate.reached.is_set(), "it is refreshed")
    answers = [here.get(path, AS_JSON) for _ in range(2 * WAITERS)]
    assert {(each.status, each.body) for each in answers} == {(200, first.body)}
    gate.open()


def test_a_crowd_and_the_head_of_a_file(here: World, plain: Upstream) -> None:
    """Where no page says the size, HEAD waits for the upstream; one more than may is told to come again."""
    file, gate = blob(fresh_name("blob"), size=5_000), Gate()
    plain.index.add(file)
    assert here.get(f"/index/plain/simple/{file.project}/").status == 200
    plain.script(plain.path_of(file), Answer(held=gate))
    answers = crowd(here, f"/files/plain/{plain.location(file)}", gate, early=WAITERS, method="HEAD")
    assert (len(told(answers, 200)), len(told(answers, 503))) == (WAITERS, WAITERS)
    assert {each.headers["content-length"] for each in told(answers, 200)} == {"5000"}
    assert plain.count("HEAD", plain.path_of(file)) == 1


# --- bodies of unknown size


@pytest.mark.parametrize(("size", "fits"), [(LIST_MAX, True), (LIST_MAX + 1, False)], ids=["fits", "too large"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_list_max(here: World, framing: Framing, size: int, fits: bool) -> None:
    """Whether the upstream declares its length or not: to the last byte that is allowed, and not one more."""
    name = f"{framing}-fits" if fits else framing
    here.upstream.script(f"/{name}/simple/", listing({}, size, framing=framing))
    got = here.get(f"/index/{name}/simple/", AS_JSON)
    assert (got.status, got.complete) == (200 if fits else 502, True)
    if fits:
        assert json.loads(got.body)["projects"] == []
        eventually(lambda: here.get(f"/index/{name}/simple/", AS_JSON).hit, "the list is kept")
    else:
        assert json.loads(got.body)["because"] == LIST_LARGER
        assert json.loads(got.body)["blame"] == "upstream"


def test_a_list_that_has_grown(here: World) -> None:
    """Too large by now, it is a failure like any other: the last good one is served."""
    path = "/index/grown/simple/"
    here.upstream.script("/grown/simple/", listing(STALE), listing(STALE, LIST_MAX + 1))
    first = here.get(path, AS_JSON)
    eventually(lambda: here.get(path, AS_JSON).hit, "the stored one is served")
    got = here.get(path, AS_JSON)
    assert (got.status, got.body) == (200, first.body)
    assert f'detail="{LIST_LARGER}"' in got.headers["cache-status"]


@pytest.mark.parametrize("size", [UNKNOWN_FILE_MAX, UNKNOWN_FILE_MAX + 1, 3 * UNKNOWN_FILE_MAX])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_unknown_file_max(here: World, plain: Upstream, framing: Framing, size: int) -> None:
    """A file whose page gives no size: refused by its length, or cut when it turns out to be too large."""
    file = blob(fresh_name("blob"), size=size)
    plain.index.add(file)
    plain.script(plain.path_of(file), Answer(framing=framing))
    url = here.proxy.file_url(plain.location(file), "plain")
    got = fetch(url)
    if size <= UNKNOWN_FILE_MAX:
        assert (got.status, got.complete, got.sha256) == (200, True, file.sha256)
        eventually(lambda: fetch(url).hit, "the file is kept")
        return
    if framing == "length":
        assert (got.status, json.loads(got.body)["because"]) == (502, LARGER)
    else:
        assert (got.status, got.complete) in ((200, False), (502, True))
        assert len(got.body) < UNKNOWN_FILE_MAX
    assert not here.kept(file)


def test_a_file_whose_page_gives_its_size(here: World) -> None:
    """It may be larger: pages are where sizes are known from."""
    file = here.publish(blob(fresh_name("blob"), size=3 * UNKNOWN_FILE_MAX))
    got = here.file(file)
    assert (got.status, got.sha256) == (200, file.sha256)
