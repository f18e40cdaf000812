"""Mounts and whoever runs the place: what they keep is told, explained, removed and purged, and outlives a restart."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.harness.admin import ask, explain
from tests.harness.behaviours import Answer, Behaviour, busy
from tests.harness.exchange import Gate
from tests.harness.fetch import Fetched
from tests.harness.scrape import Scraped, parsed
from tests.harness.server import ROOT, clean_environment
from tests.harness.upstream import Upstream
from tests.harness.waiting import eventually
from tests.harness.world import World, fresh_name, world

FRESH = {"Cache-Control": "max-age=600"}
STALE = {"Cache-Control": "max-age=0"}
SECRET = "canary-query"
Json = dict[str, Any]


def mounts(upstream: Upstream) -> Mapping[str, Any]:
    """Two trees of one origin."""
    return {
        "builds": {"url": f"{upstream.origin}/builds/"},
        "models": {"url": f"{upstream.origin}/models/", "stale_if_error": "1h"},
    }


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One proxy that most tests share."""
    with world(tmp_path_factory.mktemp("mounts"), mounts=mounts) as made:
        yield made


def tree(here: World, *behaviours: Behaviour, mount: str = "builds", name: str = "file.tar.gz") -> str:
    """The path of something new in a mount, which the origin serves so."""
    rest = f"{fresh_name()}/{name}"
    here.upstream.script(f"/{mount}/{rest}", *(behaviours or (thing(),)))
    return f"/raw/{mount}/{rest}"


def thing(body: bytes = b"thing", headers: Mapping[str, str] = FRESH, **how: Any) -> Answer:
    """A good answer."""
    return Answer(status=200, body=body, headers={"Content-Type": "application/gzip", **headers}, **how)


def kept(here: World, path: str) -> Fetched:
    """What is answered without the origin; the row comes a moment after the last byte."""
    got: list[Fetched] = []

    def hit() -> bool:
        got.append(here.get(path))
        return got[-1].hit

    eventually(hit, "it is kept")
    return got[-1]


def admin(here: World, path: str, question: Json | None = None) -> Json:
    """An answer of the admin API; a question is POSTed."""
    got = ask(here, "GET" if question is None else "POST", f"/admin/cache/{path}", question)
    assert got.status == 200, got.body
    told: Json = json.loads(got.body)
    return told


def scraped(here: World) -> Scraped:
    """What ``/metrics`` says."""
    answer = here.get("/metrics")
    return parsed(answer.body.decode(), answer.headers["content-type"])


def command(here: World, *words: str) -> str:
    """What ``pip-cache-proxy cache`` says, of the server or of the directory where none runs."""
    words = (sys.executable, "-m", "proxy", "cache", *words, "--cache-dir", str(here.proxy.cache))
    done = subprocess.run(words, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def listed(here: World, query: str) -> list[Json]:
    """The files of a list."""
    files: list[Json] = admin(here, f"list?{query}")["files"]
    return files


# --- list, info, remove, purge


def test_what_is_told_of_a_mount(here: World) -> None:
    """All of it, under its own kind; the query, which may be a secret, nowhere."""
    path = tree(here, name="cpython-3.12.1%2B2024.tar.zst")
    assert kept(here, f"{path}?token={SECRET}").body == b"thing"
    project = path.split("/")[3]
    (file,) = [each for each in listed(here, "kind=mount&index=builds") if project in (each["url"] or "")]
    assert here.proxy.cache.joinpath(file.pop("path")).read_bytes() == b"thing"
    assert file.pop("stored") <= file.pop("last_used")
    assert file == {
        "project": "",
        "version": None,
        "filename": "cpython-3.12.1+2024.tar.zst",
        "kind": "mount",
        "what": "raw",
        "size": 5,
        "sha256": hashlib.sha256(b"thing").hexdigest(),
        "index": "builds",
        "url": f"{here.upstream.origin}/builds/{project}/cpython-3.12.1%2B2024.tar.zst",
    }
    assert SECRET not in json.dumps([listed(here, f"kind={kind}") for kind in ("mount", "response")])
    assert listed(here, "") == listed(here, "kind=wheel") == []
    assert {each["kind"] for each in listed(here, "kind=wheel&kind=sdist&kind=response&kind=mount")} == {
        "response", "mount",
    }  # fmt: skip
    variants = [each for each in listed(here, "kind=response&index=builds") if each["what"] == "variants"]
    assert variants
    assert all(each["project"] == "" for each in variants)


def test_sums_of_mounts_are_their_own(here: World) -> None:
    """In info and in metrics: bytes and files beside their own limit, and no wheels."""
    path = tree(here, thing(b"x" * 1000))
    before = admin(here, "info")
    counted = scraped(here)
    assert len(kept(here, path).body) == 1000
    info = admin(here, "info")
    assert info["mounts"]["count"] == before["mounts"]["count"] + 1
    assert info["mounts"]["bytes"] == before["mounts"]["bytes"] + 1000
    assert info["wheels"] == info["sdists"] == {"count": 0, "bytes": 0}
    assert info["limits"]["mounts_max_size"] == 10 * 10**9
    assert info["locations"]["mounts"] == f"{here.proxy.cache}/mounts"
    now = scraped(here)
    room = {"room": "mounts", "kind": "mount"}
    assert now.moved(counted, "pipcacheproxy_cache_bytes", **room) == 1000
    assert now.sum("pipcacheproxy_cache_files", **room) == info["mounts"]["count"]
    assert now.sum("pipcacheproxy_cache_limit_bytes", room="mounts") == 10 * 10**9
    assert now.sum("pipcacheproxy_evictions_total", room="mounts") == 0
    assert now.moved(counted, "pipcacheproxy_requests_total", kind="raw", outcome="miss") >= 1
    assert now.moved(counted, "pipcacheproxy_cache_lookups_total", result="hit") >= 1


def test_what_is_removed_is_fetched_again(here: World) -> None:
    """By the name of its file, as a glob over all of it; by its mount; and nothing else goes."""
    first, second = tree(here, name="a-1.tar.gz"), tree(here, name="a-2.tar.gz")
    other, folder = tree(here, mount="models", name="a-1.bin"), tree(here, mount="models", name="")
    for path in (first, second, other, folder):
        kept(here, path)
    assert admin(here, "remove", {"pattern": "a-1*"})["count"] == 0  # pip's words name wheels
    went = admin(here, "remove", {"pattern": "a-1*", "kind": "mount", "index": "builds"})
    assert [each["filename"] for each in went["removed"]] == ["a-1.tar.gz"]
    assert not (again := here.get(first)).hit
    assert again.body == b"thing"
    assert all(here.get(path).hit for path in (second, other, folder))
    foretold = admin(here, "remove", {"pattern": "*", "index": "models", "dry_run": True})
    gone = admin(here, "remove", {"pattern": "*", "index": "models"})
    assert foretold["count"] == gone["count"] >= 4  # two bodies, and what lists the variants of each
    assert {each["index"] for each in gone["removed"]} == {"models"}
    assert {None, "a-1.bin"} <= {each["filename"] for each in gone["removed"]}
    assert here.get(second).hit
    assert not here.get(other).hit
    assert not here.get(folder).hit


def test_a_purge_leaves_nothing(tmp_path: Path) -> None:
    """No row, no byte, no directory; and the sums agree."""
    with world(tmp_path, mounts=mounts) as here:
        for name in ("a.gz", "b.whl", "", ".hidden"):
            kept(here, tree(here, name=name))
        assert admin(here, "info")["mounts"]["count"] == 4
        purged = admin(here, "purge", {})
        assert sum(each["kind"] == "mount" for each in purged["removed"]) == 4
        info = admin(here, "info")
        assert [info[kind] for kind in ("mounts", "wheels", "sdists", "responses")] == [{"count": 0, "bytes": 0}] * 4
        mount_room = here.proxy.cache / "mounts"
        assert [each.name for each in mount_room.iterdir() if not each.name.startswith("cache.db")] == []
        assert listed(here, "kind=mount") == []


@pytest.mark.parametrize(
    "question", [{"pattern": "*"}, {"pattern": "big.bin", "kind": "mount"}, {"pattern": "*", "index": "builds"}]
)
def test_what_is_removed_on_its_way_reaches_who_waits_and_is_not_kept(here: World, question: Json) -> None:
    """Its client gets all of it; who asks after the removal shares nothing of it, and what he gets is kept."""
    gate, body = Gate(), bytes(range(256)) * 4096
    path = tree(here, thing(body, stall_after=len(body) // 2, gate=gate), thing(b"new"), name="big.bin")
    with ThreadPoolExecutor(1) as pool:
        getting = pool.submit(here.get, path)
        assert gate.reached.wait(20)
        admin(here, "remove", question)
        after = here.get(path)
        gate.open()
        got = getting.result()
    assert (got.status, got.body, got.complete) == (200, body, True)
    assert (after.body, after.hit) == (b"new", False)
    assert kept(here, path).body == b"new"
    eventually(lambda: not here.proxy.spooled(), "no spool is left")
    assert kept(here, path).body == b"new"


def test_a_restart_keeps_what_mounts_answered(tmp_path: Path) -> None:
    """Also one by SIGKILL: the origin is not asked again while it is fresh. The command says the same meanwhile."""
    with world(tmp_path, mounts=mounts) as here:
        paths = [tree(here, thing(b"x" * size)) for size in (0, 10, 100_000)]
        for path in paths:
            kept(here, path)
        for way in (here.proxy.terminate, here.proxy.kill):
            served = command(here, "list", "--kind", "mount")
            way()
            assert command(here, "list", "--kind", "mount") == served
            assert json.loads(command(here, "info", "--format", "json"))["mounts"] == {"count": 3, "bytes": 100_010}
            here.proxy.start()
            here.upstream.forget()
            assert [len(here.get(path).body) for path in paths] == [0, 10, 100_000]
            assert here.upstream.log == []
            assert admin(here, "info")["mounts"] == {"count": 3, "bytes": 100_010}
        assert served.count(" - file.tar.gz (") == 3
        assert command(here, "list") == "No locally built wheels cached.\n"


def test_a_mount_has_no_pages_to_refresh(here: World) -> None:
    """Its name is no index's."""
    got = ask(here, "POST", "/admin/cache/refresh", {"project": "six", "index": "builds"})
    assert got.status == 404
    assert ask(here, "POST", "/admin/cache/refresh", {"path": "/raw/builds/a"}).status == 400


# --- explain


def stored(here: World, *behaviours: Behaviour, mount: str = "builds") -> str:
    """Something that was asked for once, and is kept."""
    path = tree(here, *behaviours, mount=mount)
    assert here.get(path).status

    def settled() -> bool:
        told = explain(here, path)
        return told["stored"] is not None and not told["under_way"]

    eventually(settled, "it is kept")
    return path


STATES: dict[str, Callable[[World], str]] = {
    "nothing": lambda here: tree(here),
    "fresh": lambda here: stored(here, thing()),
    "stale": lambda here: stored(here, thing(headers={**STALE, "ETag": '"1"'})),
    "stale without a validator": lambda here: stored(here, thing(headers=STALE, without=("ETag", "Last-Modified"))),
    "stale, refreshed behind": lambda here: stored(
        here, thing(headers={"Cache-Control": "max-age=0, stale-while-revalidate=60"})
    ),
    "never stale": lambda here: stored(here, thing(headers={"Cache-Control": "max-age=0, must-revalidate"})),
    "not storable": lambda here: tree(here, thing(headers={"Cache-Control": "no-store"})),
    "failing": lambda here: stored(here, thing(headers=STALE), busy(503), mount="models"),
    "missing": lambda here: stored(here, Answer(status=404, body=b"no", headers=FRESH)),
}
REQUESTS: dict[str, tuple[Mapping[str, str], str]] = {
    "plain": ({}, "GET"),
    "head": ({}, "HEAD"),
    "range": ({"Range": "bytes=1-2"}, "GET"),
    "no-cache": ({"Cache-Control": "no-cache"}, "GET"),
    "no-store": ({"Cache-Control": "no-store"}, "GET"),
    "only-if-cached": ({"Cache-Control": "only-if-cached"}, "GET"),
    "not modified": ({"If-None-Match": '"1"'}, "GET"),
}
SAME = ("content-type", "content-length", "content-range", "etag", "cache-control")


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("request_name", REQUESTS)
def test_what_explain_says_is_what_happens(here: World, state: str, request_name: str) -> None:
    """Of every state and request; and nobody notices that it was asked."""
    headers, method = REQUESTS[request_name]
    path = STATES[state](here)
    at_origin = path.removeprefix("/raw")
    heard = here.upstream.count(path=at_origin)
    told = explain(here, f"{path}?token={SECRET}" if state == "nothing" else path, headers, method)
    assert SECRET not in json.dumps(told)
    assert here.upstream.count(path=at_origin) == heard
    assert (told["kind"], told["index"], told["project"]) == ("raw", path.split("/")[2], None)
    assert not told["under_way"]
    got = here.get(path, headers, method)
    asked = here.upstream.count(path=at_origin) - heard
    if told["status"] is None:
        assert told["asks_upstream"]
        assert told["decision"] in ("fetch", "revalidate", "relay")
        assert told["upstream_url"] == f"{here.upstream.origin}{at_origin}"
        assert asked == 1
        if got.hit:
            assert told["falls_back"]
    else:
        assert not told["asks_upstream"]
        assert told["status"] == got.status
        assert asked == 0 or told["refresh_behind"]
        fields = {name.lower(): value for name, value in told["headers"] if name.lower() in SAME}
        if got.status < 400:
            assert fields == {name: got.headers[name] for name in SAME if name in got.headers}
        detail = got.headers["cache-status"].rpartition('detail="')[2].rstrip('"')
        assert told["because"] == detail


def test_explain_of_what_is_under_way(here: World) -> None:
    """It says so, and waits for nobody."""
    gate = Gate()
    path = tree(here, thing(held=gate))
    with ThreadPoolExecutor(1) as pool:
        getting = pool.submit(here.get, path)
        assert gate.reached.wait(20)
        told = explain(here, path)
        gate.open()
        assert getting.result().body == b"thing"
    assert (told["decision"], told["under_way"], told["asks_upstream"]) == ("fetch", True, True)
