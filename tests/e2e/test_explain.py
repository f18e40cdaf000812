"""What explain says of a request is what becomes of it; and nobody notices that it was asked.

Every test explains first and then really asks with the same headers, in many states and with many headers.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.harness.admin import ask, explain, refresh
from tests.harness.behaviours import Answer, Behaviour, busy
from tests.harness.exchange import Gate, Seen
from tests.harness.fetch import Fetched
from tests.harness.index import JSON_V1
from tests.harness.packages import Distribution, blob, sdist, wheel
from tests.harness.waiting import eventually
from tests.harness.world import AS_JSON, HTML, World, fresh_name, world

Headers = Mapping[str, str]
IDENTITY = {"Accept-Encoding": "identity"}
FRESH = {"Cache-Control": "max-age=600"}
STALE = {"Cache-Control": "max-age=0"}
PIP_23 = {"User-Agent": "pip/23.2 {}", "Cache-Control": "max-age=0"}
BEHIND = {"Cache-Control": "max-age=0, stale-while-revalidate=60"}
SAME = ("content-type", "content-encoding", "content-length", "content-range", "etag", "cache-control", "location")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One proxy that most tests share."""
    settings = {
        "freshness": {"min_reload_interval": "1h", "stale_after": "5s"},
        "limits": {"range_fill_max": "1MB"},
    }
    with world(tmp_path_factory.mktemp("explain"), settings) as made:
        yield made


def law(here: World, path: str, headers: Headers | None = None, method: str = "GET") -> tuple[dict[str, Any], Fetched]:
    """Explain, then ask: the upstream hears nothing of the first, and both agree on whatever the first knows."""
    headers, plain = {**IDENTITY, **(headers or {})}, path.partition("?")[0]
    heard = len(asked_for(here, path))
    here.proxy.forget()
    told = explain(here, path, headers, method)
    assert timeless(told) == timeless(explain(here, path, headers, method)), "asking changed something"
    assert len(asked_for(here, path)) == heard
    got = here.get(path, headers, method)
    since = asked_for(here, path)[heard:]
    if told["status"] is None:
        assert told["asks_upstream"]
        assert [f"http://{each.headers['host']}{each.path}" for each in since][:1] == [told["upstream_url"]]
        return told, got
    assert not told["asks_upstream"]
    # Lines of what went before may come late, but never after those of what came later.
    lines = here.proxy.wait_for_log(lambda lines: plain in [each.get("path") for each in after_explaining(lines)])
    line = next(each for each in after_explaining(lines) if each.get("path") == plain)
    assert (told["status"], told["outcome"], told["because"]) == (got.status, line["outcome"], line["because"])
    assert fields_of(told, got) == {name: got.headers[name] for name in SAME if name in got.headers}
    assert told["refresh_behind"] or not since
    return told, got


def asked_for(here: World, path: str) -> list[Seen]:
    """What the upstream was asked for that has to do with the project in that path."""
    found = re.search(r"[a-z]+-[0-9]+", path)
    name = path if found is None else found[0]
    return [each for each in here.upstream.log if name in each.path]


def after_explaining(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The log lines after those of two explanations."""
    places = [place for place, each in enumerate(lines) if each.get("path") == "/admin/cache/explain"]
    return lines[places[1] + 1 :] if len(places) > 1 else []


def timeless(told: dict[str, Any]) -> dict[str, Any]:
    """Without what a second changes."""
    stored = told["stored"] and {name: each for name, each in told["stored"].items() if name not in ("age", "ttl")}
    # A form of the list may be made a moment after it was asked for; then its length is known.
    moving = {"Age", "Retry-After"} | ({"Content-Length"} if told["kind"] == "list" else set())
    headers = [pair for pair in told["headers"] if pair[0] not in moving]
    # The fetch of a list ends a moment after its last byte has reached who asked for it.
    under_way = told["under_way"] and told["kind"] != "list"
    return {**told, "stored": stored, "headers": headers, "under_way": under_way}


def fields_of(told: dict[str, Any], got: Fetched) -> dict[str, str]:
    """Those that explain tells; of an error it tells no Content-*, and of a HEAD no length that is not known."""
    fields = {name.lower(): value for name, value in told["headers"] if name.lower() in SAME}
    if got.status >= 400 or got.status == 301:
        return {name: fields.get(name, got.headers[name]) for name in SAME if name in got.headers}
    if told["kind"] == "list":
        fields |= {name: got.headers[name] for name in ("content-length",) if name in got.headers}
    return fields


# --- pages


def page(here: World, *behaviours: Behaviour, fetched: bool = True) -> str:
    """The path of a new project's page, which the upstream serves so; asked for once."""
    name = fresh_name()
    here.publish(wheel(name))
    here.script(name, *behaviours)
    if fetched:
        here.page(name)
    return f"/simple/{name}/"


PAGES: dict[str, Callable[[World], str]] = {
    "fresh": lambda here: page(here, Answer(headers=FRESH)),
    "not stored": lambda here: page(here, fetched=False),
    "stale": lambda here: page(here, Answer(headers=STALE)),
    "stale without a validator": lambda here: page(here, Answer(headers=STALE, without=("ETag", "Last-Modified"))),
    "stale, refreshed behind": lambda here: page(here, Answer(headers=BEHIND)),
    "never stale": lambda here: page(here, Answer(headers={"Cache-Control": "max-age=0, must-revalidate"})),
    "not storable": lambda here: page(here, Answer(headers={"Cache-Control": "no-store"})),
    "missing": lambda here: page(here, Answer(status=404)),
    "failing": lambda here: page(here, busy(503)),
    "useless": lambda here: useless(here),
}  # fmt: skip
REQUESTS: dict[str, tuple[Headers, str]] = {
    "json": (AS_JSON, "GET"),
    "html": ({"Accept": HTML}, "GET"),
    "head": (AS_JSON, "HEAD"),
    "gzip": ({**AS_JSON, "Accept-Encoding": "gzip"}, "GET"),
    "zstd html": ({"Accept": HTML, "Accept-Encoding": "gzip, zstd"}, "GET"),
    "a picture": ({"Accept": "image/png"}, "GET"),
    "no-cache": ({**AS_JSON, "Cache-Control": "no-cache"}, "GET"),
    "max-age": ({**AS_JSON, "Cache-Control": "max-age=0"}, "GET"),
    "max-stale": ({**AS_JSON, "Cache-Control": "max-stale=60"}, "GET"),
    "only-if-cached": ({**AS_JSON, "Cache-Control": "only-if-cached"}, "GET"),
    "old pip": ({**AS_JSON, **PIP_23}, "GET"),
    "any": ({**AS_JSON, "If-None-Match": "*"}, "GET"),
}


def useless(here: World) -> str:
    """A stale page, and a look at it that a captive portal answered."""
    login, html = b"<html><a href='/login'>log in</a></html>", {"Content-Type": "text/html"}
    portal = Answer(status=200, body=login, headers=html, without=("Content-Encoding",))
    path = page(here, Answer(headers=STALE), portal)
    assert here.get(path, AS_JSON).status == 200
    told = explain(here, path, AS_JSON)
    assert (told["outcome"], told["asks_upstream"]) == ("stale", False)
    return path


@pytest.mark.parametrize("state", PAGES)
def test_a_page(here: World, state: str) -> None:
    """In every state, whatever the client says."""
    for headers, method in REQUESTS.values():
        told, _ = law(here, PAGES[state](here), headers, method)
        assert told["kind"] == "page"
        assert told["project"] in told["path"]


def test_a_condition_is_weighed(here: World) -> None:
    """The ETag of the very rendition this client would get is a 304; that of another is not."""
    path = PAGES["fresh"](here)
    for coding in ("identity", "gzip", "zstd"):
        wants = {"Accept": HTML, "Accept-Encoding": coding}
        told, _ = law(here, path, wants)
        etag = dict(told["headers"])["ETag"]
        assert law(here, path, {**wants, "If-None-Match": etag})[0]["status"] == 304
        assert law(here, path, {"Accept": JSON_V1, "If-None-Match": etag})[0]["status"] == 200


def test_what_is_stored_is_told(here: World) -> None:
    """How old, how long, since when, and where from: for a page, and for a 404 that is remembered."""
    name = fresh_name()
    here.publish(wheel(name))
    here.script(name, Answer(headers={"Cache-Control": "max-age=600", "Age": "100"}), Answer(status=404))
    here.page(name)
    stored = explain(here, f"/simple/{name}/")["stored"]
    assert (stored["lifetime"], stored["fresh"], stored["status"]) == (600, True, 200)
    assert 100 <= stored["age"] < 160
    assert stored["ttl"] == 600 - stored["age"]
    assert stored["url"] == f"{here.upstream.url}{name}/"
    assert stored["serial"] == str(here.upstream.index.serial)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", stored["received_at"])
    gone = page(here, Answer(status=404))
    assert explain(here, gone)["stored"]["status"] == 404


def test_a_look_under_way_is_told(here: World) -> None:
    """Somebody waits for that page already: who asks now would join."""
    gate = Gate()
    path = page(here, Answer(held=gate), fetched=False)
    with here.connect() as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert gate.reached.wait(20)
        told = explain(here, path)
        assert (told["under_way"], told["asks_upstream"], told["status"]) == (True, True, None)
        gate.open()
        while client.recv(65536):
            pass
    assert not explain(here, path)["under_way"]


def test_falls_back_tells_whether_a_failure_would_show(here: World) -> None:
    """With a page that may be served stale it would not; with one that may not, or with none, it would."""
    expected = {"stale": True, "never stale": False, "not stored": False}
    assert {state: explain(here, PAGES[state](here))["falls_back"] for state in expected} == expected


# --- lists and the JSON API


def test_a_list(tmp_path: Path) -> None:
    """Not fetched, fresh and stale, in forms that are made and not made."""
    with world(tmp_path, {"freshness": {"reload": "honour"}}) as here:
        here.publish(wheel(fresh_name()))
        here.upstream.script("/simple/", Answer(headers=FRESH))
        assert law(here, "/simple/", AS_JSON)[0]["decision"] == "fetch"
        eventually(lambda: explain(here, "/simple/")["decision"] == "serve", "the list is kept")
        for life, decision in ((FRESH, "serve"), (STALE, "revalidate"), (BEHIND, "serve")):
            here.upstream.script("/simple/", Answer(headers=life))
            assert law(here, "/simple/", {"Cache-Control": "no-cache"})[0]["decision"] == "revalidate"
            told = explain(here, "/simple/")
            assert (told["kind"], told["decision"], told["refresh_behind"]) == ("list", decision, life is BEHIND)
            # What goes on behind one answer would be heard while the next is explained.
            for headers, method in REQUESTS.values() if life is not BEHIND else [(AS_JSON, "GET")]:
                law(here, "/simple/", headers, method)


DOCUMENTS: dict[str, Callable[[World], str]] = {
    "fresh": lambda here: document(here, Answer(headers=FRESH)),
    "not stored": lambda here: document(here, fetched=False),
    "stale": lambda here: document(here, Answer(headers=STALE)),
    "stale, refreshed behind": lambda here: document(here, Answer(headers=BEHIND)),
    "missing": lambda here: document(here, Answer(status=404)),
}  # fmt: skip


def document(here: World, *behaviours: Behaviour, fetched: bool = True) -> str:
    """The path of a new project's document."""
    name = fresh_name()
    here.publish(wheel(name))
    path = f"/pypi/{name}/json"
    here.upstream.script(path, *behaviours)
    if fetched:
        here.get(path)
    return path


@pytest.mark.parametrize("state", DOCUMENTS)
def test_a_document(here: World, state: str) -> None:
    """The JSON API, in every state; its ETag is of the address this client uses."""
    for headers, method in REQUESTS.values():
        told, _ = law(here, DOCUMENTS[state](here), headers, method)
        assert told["kind"] == "json"


# --- files and metadata


def cached(here: World) -> str:
    """A wheel that is here."""
    file = here.publish(wheel(fresh_name()))
    here.page(file.project)
    return kept(here, here.path_of(file))


def kept(here: World, path: str) -> str:
    """The same path, once it is answered from the store."""
    eventually(lambda: here.get(path).hit, "it is kept")
    return path


def listed(here: World, file: Distribution | None = None) -> str:
    """One that a page lists."""
    file = here.publish(file or wheel(fresh_name()))
    here.page(file.project)
    return here.path_of(file)


def unsized(here: World) -> str:
    """One of which its page tells neither size nor hash."""
    file = wheel(fresh_name())
    body = f'<html><a href="{here.upstream.index.url_of(file)}">{file.filename}</a></html>'.encode()
    here.publish(file)
    here.script(file.project, Answer(body=body, headers={"Content-Type": HTML}, without=("Content-Encoding",)))
    assert here.page(file.project).status == 200
    return here.path_of(file)


def dropped(here: World) -> str:
    """One that is here, and that its page lists no more."""
    path = cached(here)
    file = next(each for each in here.upstream.index.distributions if each.filename in path)
    here.upstream.index.remove(file)
    here.publish(wheel(file.project, "9"))
    assert refresh(here, file.project).status == 200
    return path


def wrong(here: World, times: int) -> str:
    """One whose body had another hash than its page lists, so often."""
    file = wheel(fresh_name())
    path = listed(here, file)
    here.script_file(file, Answer(corrupt=50))
    for _ in range(times):
        here.file(file)
    # Once is noted a moment after the answer, too, but changes nothing while the page is known to be of now.
    eventually(lambda: times < 2 or explain(here, path)["decision"] == "refuse", "the proxy knows of the wrong body")
    return path


def lacking(here: World) -> str:
    """One that the upstream lacks."""
    file = wheel(fresh_name())
    path = listed(here, file)
    here.script_file(file, Answer(status=404, body=b""))
    assert here.file(file).status == 503
    return path


FILES: dict[str, Callable[[World], str]] = {
    "cached": cached,
    "listed": listed,
    "a large one": lambda here: listed(here, blob(fresh_name(), size=3_000_000)),
    "unsized": unsized,
    "unlisted": lambda here: here.path_of(wheel(fresh_name())),
    "an sdist nobody knows": lambda here: here.path_of(sdist(fresh_name())),
    "of a project seen a moment ago": lambda here: here.path_of(wheel(listed_project(here), "7")),
    "wrong once": lambda here: wrong(here, 1),
    "wrong twice": lambda here: wrong(here, 2),
    "lacking": lacking,
}
PARTS: dict[str, tuple[Headers, str]] = {
    "plain": ({}, "GET"),
    "head": ({}, "HEAD"),
    "gzip": ({"Accept-Encoding": "gzip"}, "GET"),
    "any": ({"If-None-Match": "*"}, "GET"),
    "range": ({"Range": "bytes=0-9"}, "GET"),
    "end": ({"Range": "bytes=-5"}, "GET"),
    "beyond": ({"Range": "bytes=99999999-"}, "GET"),
    "two ranges": ({"Range": "bytes=0-1,5-6"}, "GET"),
    "another file": ({"Range": "bytes=5-", "If-Range": '"other"'}, "GET"),
    "no-cache": ({"Cache-Control": "no-cache"}, "GET"),
    "only-if-cached": ({"Cache-Control": "only-if-cached"}, "GET"),
}


def listed_project(here: World) -> str:
    """The project of a page that is known."""
    file = wheel(fresh_name())
    listed(here, file)
    return file.project


@pytest.mark.parametrize("state", FILES)
def test_a_file(here: World, state: str) -> None:
    """In every state, whole and in part."""
    for headers, method in PARTS.values():
        told, _ = law(here, FILES[state](here), headers, method)
        assert told["kind"] == "file"


@pytest.mark.parametrize("state", ["cached", "listed", "unlisted"])
def test_metadata(here: World, state: str) -> None:
    """Plain and coded, of a wheel that is here, that is listed, and that nobody knows."""
    for headers, method in PARTS.values():
        path = f"{FILES[state](here)}.metadata"
        told, _ = law(here, kept(here, path) if state == "cached" else path, headers, method)
        assert told["kind"] == "metadata"


def test_what_its_page_says_of_a_file(here: World) -> None:
    """Which project's page lists it, with what size and hash; and where the body lies once it is here."""
    file = here.publish(wheel(fresh_name()))
    here.page(file.project)
    told = explain(here, here.path_of(file))
    assert told["listed"] == {"project": file.project, "pin": f"sha256={file.sha256}", "size": file.size}
    assert (told["stored"], told["decision"], told["because"]) == (None, "fetch", "not cached")
    told = explain(here, kept(here, here.path_of(file)))
    stored = told["stored"]
    assert (stored["sha256"], stored["size"], stored["verified"]) == (file.sha256, file.size, True)
    assert (stored["ttl"], stored["lifetime"], stored["fresh"]) == (None, None, True)
    assert here.proxy.cache / stored["body"] in here.proxy.stored()
    assert told["project"] == file.project


def test_a_file_that_its_page_dropped_is_served(here: World) -> None:
    """It was listed once, and nothing is taken from who pinned it."""
    told, got = law(here, dropped(here))
    assert (got.status, told["listed"]) == (200, None)


def test_a_doubted_file_costs_a_look(tmp_path: Path) -> None:
    """Its page may tell of another body by now; what the upstream says of the page is not known."""
    with world(tmp_path, {"freshness": {"min_reload_interval": "0s"}}) as here:
        path = wrong(here, 1)
        eventually(lambda: explain(here, path)["decision"] == "look", "the proxy knows of the wrong body")
        for headers, method in ((IDENTITY, "GET"), (IDENTITY, "HEAD"), ({"If-None-Match": "*"}, "GET")):
            told, _ = law(here, path, headers, method)
            assert told["decision"] == "look"


def test_what_is_signed_stays_secret(here: World) -> None:
    """Links may be signed in their query: explain names what is asked for without it."""
    file = wheel(fresh_name())
    link = f"{here.upstream.index.url_of(file)}?signature=sesame"
    body = f'<html><a href="{link}">{file.filename}</a></html>'.encode()
    signed = Answer(status=200, body=body, headers={"Content-Type": HTML}, without=("Content-Encoding",))
    here.script(file.project, signed)
    assert here.page(file.project).status == 200
    told = explain(here, here.path_of(file))
    assert (told["asks_upstream"], told["upstream_url"]) == (True, link.partition("?")[0])
    assert "sesame" not in json.dumps([told, explain(here, f"/simple/{file.project}/")])


def test_an_unlisted_file_would_cost_a_look(here: World) -> None:
    """At its project's page, whose address is told."""
    file = wheel(fresh_name())
    told = explain(here, here.path_of(file))
    assert (told["decision"], told["asks_upstream"]) == ("look", True)
    assert told["upstream_url"] == f"{here.upstream.url}{file.project}/"


# --- what is no page and no file


@pytest.mark.parametrize(
    ("path", "kind", "status"),
    [
        ("/simple/A_Name", "moved", 301),
        ("/simple/A_Name/?format=text/html", "moved", 301),
        ("/simple/-bad-/", "nothing", 404),
        ("/nowhere", "nothing", 404),
        ("/files/test/example.com/a.whl?token=x", "nothing", 404),
        ("/simple/a%2fb/", "nothing", 400),
        ("/simple/../x", "nothing", 400),
        ("/simple//x/", "nothing", 400),
        ("/simple/?a=1&" + "&".join("b" * 20), "nothing", 400),
    ],
)
def test_elsewhere(here: World, path: str, kind: str, status: int) -> None:
    """Other spellings, paths that are none, and what the gate refuses: told with the reason that the log has."""
    told, got = law(here, path)
    assert (told["kind"], told["status"], got.status) == (kind, status, status)
    assert told["decision"] == ("moved" if kind == "moved" else "refuse")


def test_operations_are_no_part_of_the_cache(here: World) -> None:
    """Explain says so, and does not do them."""
    for path in ("/healthz", "/metrics", "/admin/cache/purge", "/"):
        assert explain(here, path)["kind"] == "operation"


def test_a_host_that_is_not_served(tmp_path: Path) -> None:
    """421 for it; and without a Host the operator asks as one that is."""
    with world(tmp_path, {"server": {"allowed_hosts": ["127.0.0.1"]}}) as here:
        assert explain(here, "/simple/x/", {"Host": "other.example.com"})["status"] == 421
        assert explain(here, "/simple/x/")["kind"] == "page"


# --- nobody is asked


def test_offline(tmp_path: Path) -> None:
    """What is here is served, whatever its age, and the rest is refused; metadata comes out of a wheel that is here."""
    with world(tmp_path) as here:
        stale, fresh = PAGES["stale"](here), PAGES["fresh"](here)
        wheels = cached(here), cached(here)
        paths = [stale, fresh, wheels[0], f"{listed(here)}.metadata", listed(here), "/simple/", "/simple/unknown/"]
        here.proxy.restart(settings={**here.proxy.settings, "freshness": {"offline": True}})
        for path in paths:
            for headers, method in ((AS_JSON, "GET"), (AS_JSON, "HEAD"), ({"Accept-Encoding": "gzip"}, "GET")):
                told, _ = law(here, path, headers, method)
                assert not told["asks_upstream"]
        told, _ = law(here, f"{wheels[1]}.metadata")
        assert told["because"] == "taken from the wheel"


def test_an_origin_that_rests(tmp_path: Path) -> None:
    """The breaker is asked and not moved: what is stored stands in, the rest is 503."""
    with world(tmp_path, {"limits": {"breaker_failures": 2, "probe_interval": "1h"}}) as here:
        states = {state: PAGES[state](here) for state in ("fresh", "stale", "never stale", "not stored")}
        file, unknown = listed(here), here.path_of(wheel(fresh_name()))
        while here.page(fresh_name()).headers["cache-status"].count("rests") == 0:
            here.upstream.stop()
        for path in (*states.values(), unknown, "/simple/", f"/pypi/{fresh_name()}/json"):
            told, _ = law(here, path, AS_JSON)
            assert not told["asks_upstream"], told
        assert explain(here, states["not stored"])["status"] == 503
        # Its host is another origin, of which nothing is known.
        assert explain(here, file)["asks_upstream"]


def test_a_late_look(tmp_path: Path) -> None:
    """A page whose look takes longer than ``stale_after`` is served at once, and explain says so while it lasts."""
    with world(tmp_path, {"freshness": {"stale_after": "100ms"}}) as here:
        gate = Gate()
        path = page(here, Answer(headers=STALE), Answer(held=gate))
        assert here.get(path, AS_JSON).status == 200
        told = explain(here, path, AS_JSON)
        assert (told["status"], told["outcome"], told["because"]) == (200, "stale", "upstream is slow")
        gate.open()


# --- nothing moves


def test_times_of_use_do_not_move(here: World) -> None:
    """What was only explained is the next to be evicted all the same."""
    path = cached(here)
    before, began = last_used(here, path), time.time()
    eventually(lambda: explain(here, path) and time.time() - began > 1.1, "a second has passed")
    assert last_used(here, path) == before
    assert here.get(path).hit
    assert last_used(here, path) > before


def last_used(here: World, path: str) -> str:
    """Of a file that is kept, in whole seconds."""
    project = explain(here, path)["project"]
    files = json.loads(ask(here, "GET", f"/admin/cache/list?project={project}").body)["files"]
    return str(files[0]["last_used"])


def test_no_rendition_is_kept(here: World) -> None:
    """An explained form of a page is made for the moment: the rows of the cache are those of before."""
    path = PAGES["fresh"](here)
    before = rows(here)
    for headers, method in REQUESTS.values():
        explain(here, path, headers, method)
    assert rows(here) == before
    here.get(path, {"Accept": HTML})
    eventually(lambda: rows(here) > before, "a rendition is kept")


def rows(here: World) -> int:
    """How many responses are kept."""
    return int(json.loads(ask(here, "GET", "/admin/cache/info").body)["responses"]["count"])
