"""An operator has a project's page looked at, now: once, whatever its freshness, and the good page is never lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.harness.admin import begin_refresh, explain, refresh
from tests.harness.behaviours import Answer, Behaviour, busy, cut
from tests.harness.exchange import Gate
from tests.harness.fetch import Fetched
from tests.harness.index import JSON_V1
from tests.harness.packages import Distribution, wheel
from tests.harness.scrape import parsed
from tests.harness.waiting import eventually
from tests.harness.world import AS_JSON, PATIENCE, World, fresh_name, listen, world

PORTAL = Answer(
    status=200,
    body=b"<html><a href=/login>log in</a></html>",
    headers={"Content-Type": "text/html"},
    without=("Content-Encoding",),
)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One proxy that most tests share; its pages stay fresh for ten minutes."""
    settings = {"freshness": {"min_reload_interval": "1h"}, "limits": {"first_byte_timeout": "2s"}}
    with world(tmp_path_factory.mktemp("refresh"), settings) as made:
        yield made


def stored(here: World, *then: Behaviour) -> str:
    """A project whose page is stored; ``then`` is what its upstream does from now on."""
    name = fresh_name()
    here.publish(wheel(name))
    assert here.page(name).status == 200
    here.script(name, *then)
    return name


def told(got: Fetched) -> dict[str, Any]:
    """The answer to a refresh that came to something."""
    assert got.status == 200, got.body
    return dict(json.loads(got.body))


def files_of(here: World, project: str) -> list[str]:
    """What clients see on the page, which must not need the upstream."""
    before = len(here.page_requests(project))
    got = here.page(project)
    assert (got.status, got.hit, len(here.page_requests(project))) == (200, True, before)
    return [each["filename"] for each in json.loads(got.body)["files"]]


def test_a_new_release_is_seen_at_once(here: World) -> None:
    """One conditional request past caches, however fresh the page is; after it clients have the new page."""
    name = stored(here)
    new = here.publish(wheel(name, "2"))
    assert new.filename not in files_of(here, name)
    answer = told(refresh(here, name))
    assert answer == {
        "index": "test",
        "project": name,
        "outcome": "refreshed",
        "because": "the upstream has another page",
        "status": 200,
        "files": 2,
        "serial": here.upstream.index.serial,
    }
    assert new.filename in files_of(here, name)
    asked = here.page_requests(name)
    assert len(asked) == 2
    assert asked[1].headers["cache-control"] == "no-cache"
    assert "if-none-match" in asked[1].headers


def test_nothing_new(here: World) -> None:
    """A 304, and the same page without validators: both leave it as it is, and it is as fresh as can be."""
    name = stored(here)
    assert {key: told(refresh(here, name))[key] for key in ("outcome", "status", "files")} == {
        "outcome": "unchanged",
        "status": 304,
        "files": 1,
    }
    name = fresh_name()
    here.publish(wheel(name))
    here.script(name, Answer(without=("ETag", "Last-Modified")))
    answers = [told(refresh(here, name)) for _ in range(2)]
    assert [(each["outcome"], each["status"]) for each in answers] == [("refreshed", 200), ("unchanged", 200)]
    assert len(files_of(here, name)) == 1


def test_a_page_that_nobody_has_asked_for(here: World) -> None:
    """Any spelling of the name will do; the page is fetched."""
    name = fresh_name()
    here.publish(wheel(name))
    answer = told(refresh(here, name.replace("-", "_").upper(), "test"))
    assert (answer["project"], answer["outcome"], answer["because"]) == (name, "refreshed", "nothing was stored")
    assert len(files_of(here, name)) == 1


def test_what_is_remembered_is_forgotten_first(here: World) -> None:
    """A 404 of a moment ago, and a look that found a captive portal."""
    late = fresh_name()
    assert here.page(late).status == 404
    here.publish(wheel(late))
    assert here.page(late).status == 404
    assert told(refresh(here, late))["outcome"] == "refreshed"
    assert len(files_of(here, late)) == 1
    name = fresh_name()
    here.publish(wheel(name))
    here.script(name, Answer(headers={"Cache-Control": "max-age=0"}), PORTAL, Answer())
    assert [here.page(name).status for _ in range(2)] == [200, 200]
    assert explain(here, f"/simple/{name}/")["outcome"] == "stale"
    new = here.publish(wheel(name, "2"))
    assert told(refresh(here, name))["outcome"] == "refreshed"
    assert new.filename in files_of(here, name)


def test_a_file_that_was_looked_for_in_vain(here: World) -> None:
    """A file asked for a moment too early is 404 for as long as its page counts as of now; a refresh ends that."""
    name = stored(here)
    new = wheel(name, "2")
    assert here.file(new).status == 404
    here.publish(new)
    assert here.file(new).status == 404
    refresh(here, name)
    assert here.file(new).body == new.data


def test_fifty_at_once_are_one(here: World) -> None:
    """All get the same answer of one request."""
    gate = Gate()
    name = stored(here, Answer(held=gate))
    here.publish(wheel(name, "2"))
    with ExitStack() as open_ones:
        connections = [open_ones.enter_context(here.connect()) for _ in range(50)]
        for connection in connections:
            begin_refresh(here, name, connection)
        arrived(here, gate)
        gate.open()
        answers = [listen(connection) for connection in connections]
    assert {each.status for each in answers} == {200}
    assert len({each.body for each in answers}) == 1
    answer = json.loads(answers[0].body)
    assert (answer["outcome"], answer["files"]) == ("refreshed", 2)
    assert len(here.page_requests(name)) == 2


def arrived(here: World, gate: Gate) -> None:
    """Returns once the upstream was asked, and the proxy has read what was sent before: it reads in that order."""
    assert gate.reached.wait(PATIENCE)
    assert here.get("/healthz").status == 200


def waiting(here: World) -> float:
    """How many requests wait for what is on its way."""
    got = here.get("/metrics")
    return parsed(got.body.decode(), got.headers["content-type"]).sum("pipcacheproxy_waiters")


def test_a_look_that_began_before_is_not_enough(here: World) -> None:
    """Its answer may be older than what the operator knows of: it is let land, then the page is asked for."""
    gate = Gate()
    name = fresh_name()
    old = here.publish(wheel(name))
    here.script(name, _held(here, name, gate), Answer())
    with ThreadPoolExecutor(1) as pool, here.connect() as operator:
        client = pool.submit(here.page, name)
        assert gate.reached.wait(PATIENCE)
        new = here.publish(wheel(name, "2"))
        begin_refresh(here, name, operator)
        arrived(here, gate)
        gate.open()
        assert [each["filename"] for each in json.loads(client.result().body)["files"]] == [old.filename]
        assert json.loads(listen(operator).body)["files"] == 2
    assert new.filename in files_of(here, name)
    assert len(here.page_requests(name)) == 2


def _held(here: World, name: str, gate: Gate) -> Behaviour:
    """The page as it is now, sent when the gate opens."""
    now = [each for each in here.upstream.index.distributions if each.project == name]
    return Answer(body=_page(here, name, now), held=gate, without=("ETag", "Last-Modified", "Content-Encoding"))


def _page(here: World, name: str, files: list[Distribution]) -> bytes:
    listed = [
        {"filename": each.filename, "url": here.upstream.index.url_of(each), "hashes": {"sha256": each.sha256}}
        for each in files
    ]
    return json.dumps({"meta": {"api-version": "1.1"}, "name": name, "versions": [], "files": listed}).encode()


def test_a_client_who_comes_later_shares_it(here: World) -> None:
    """While an operator's look is under way, a client who needs one joins it."""
    gate = Gate()
    name = fresh_name()
    here.publish(wheel(name))
    here.script(name, Answer(held=gate))
    with here.connect() as operator, here.connect() as client:
        begin_refresh(here, name, operator)
        assert gate.reached.wait(PATIENCE)
        before = waiting(here)
        client.sendall(f"GET /simple/{name}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        eventually(lambda: waiting(here) == before + 1, "the client has joined it")
        gate.open()
        assert json.loads(listen(operator).body)["outcome"] == "refreshed"
        assert "collapsed" in listen(client).headers["cache-status"]
    assert len(here.page_requests(name)) == 1


def test_missing(here: World) -> None:
    """An upstream's 404 is an answer, believed when it is said twice; the last good page survives beside it."""
    name = stored(here, Answer(status=404))
    answer = told(refresh(here, name))
    assert (answer["outcome"], answer["status"], answer["files"], answer["serial"]) == ("missing", 404, 0, None)
    assert len(here.page_requests(name)) == 3
    assert here.page(name).status == 404
    here.script(name, Answer())
    assert told(refresh(here, name))["outcome"] == "unchanged"
    assert len(files_of(here, name)) == 1


@pytest.mark.parametrize(
    ("behaviour", "status", "upstream_asked"),
    [
        (busy(503), 503, 1),
        (Answer(status=500, body=b"oops"), 503, 1),
        (Answer(status=403, body=b"no"), 502, 1),
        (PORTAL, 503, 1),
        (cut(20), 503, 1),
        (Answer(headers={"X-PyPI-Last-Serial": "1"}, without=("ETag", "Last-Modified")), 503, 1),
    ],
    ids=["503", "500", "403", "portal", "cut", "older"],
)
def test_the_last_good_page_stays(here: World, behaviour: Answer, status: int, upstream_asked: int) -> None:
    """What may not replace it does not, and the operator is told so."""
    name = stored(here, behaviour)
    here.publish(wheel(name, "2"))
    got = refresh(here, name)
    assert (got.status, json.loads(got.body)["because"].endswith("; the last good page stays")) == (status, True)
    assert len(files_of(here, name)) == 1
    assert len(here.page_requests(name)) == 1 + upstream_asked


def test_nothing_stored_and_nothing_to_store(here: World) -> None:
    """A failure is a failure, and no page is said to stay."""
    name = fresh_name()
    here.script(name, busy(503))
    got = refresh(here, name)
    assert (got.status, "stays" in json.loads(got.body)["because"]) == (503, False)


def test_a_silent_upstream(here: World) -> None:
    """The operator waits as long as a client would, and no longer; when the page comes at last it counts."""
    gate = Gate()
    name = stored(here, Answer(held=gate))
    new = here.publish(wheel(name, "2"))
    got = refresh(here, name)
    assert (got.status, json.loads(got.body)["because"]) == (503, "the upstream does not answer; the look goes on")
    assert new.filename not in files_of(here, name)
    gate.open()
    here.proxy.wait_for_log(lambda _: new.filename in json.loads(here.page(name).body)["files"][-1]["filename"])
    assert len(here.page_requests(name)) == 2


def test_a_page_that_may_not_be_kept(here: World) -> None:
    """The upstream says no-store: clients will ask again, and the operator is told."""
    name = stored(here, Answer(headers={"Cache-Control": "no-store"}))
    here.publish(wheel(name, "2"))
    answer = told(refresh(here, name))
    assert (answer["outcome"], answer["because"], answer["files"]) == ("relay", "not storable", 2)


@pytest.mark.parametrize(
    ("project", "index", "status"),
    [("six", "other", 404), ("-six", None, 400), ("a/b", None, 400), ("six\n", None, 400), ("six", "", 400)],
)
def test_nonsense(here: World, project: str, index: str | None, status: int) -> None:
    """An index that is not configured, and names that are none: no request leaves."""
    before = len(here.upstream.log)
    assert refresh(here, project, index).status == status
    assert len(here.upstream.log) == before


def test_offline(tmp_path: Path) -> None:
    """No upstream is asked: 503, and the page is served as before."""
    with world(tmp_path) as here:
        name = stored(here)
        here.proxy.restart(settings={**here.proxy.settings, "freshness": {"offline": True}})
        assert refresh(here, name).status == 503
        assert here.page(name, AS_JSON).headers["content-type"] == JSON_V1
        assert len(here.page_requests(name)) == 1
