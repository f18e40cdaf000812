"""What once went wrong, and no other test would notice: races, lost rows, leavers, full queues."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests.harness.behaviours import Answer, busy, polite
from tests.harness.exchange import Exchange, Gate
from tests.harness.fetch import Fetched, fetch
from tests.harness.index import JSON_V1
from tests.harness.packages import Distribution, blob, wheel
from tests.harness.scrape import parsed
from tests.harness.server import Settings
from tests.harness.upstream import Upstream
from tests.harness.waiting import eventually
from tests.harness.world import AS_JSON, World, fresh_name, listen, right, world
from tests.keeping import query

MIB = 1024 * 1024
SETTINGS: Settings = {"limits": {"range_fill_max": "1MiB"}}
STALE = {"Cache-Control": "max-age=0"}


@pytest.fixture(scope="module")
def here(lane: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One proxy that most tests share, with the default interval between looks at a page."""
    with world(tmp_path_factory.mktemp("regressions"), SETTINGS) as made:
        yield made


def unlisted(here: World, project: str, version: str = "9.9") -> str:
    """The path of a wheel of the project that its page does not list."""
    name = f"{project.replace('-', '_')}-{version}-py3-none-any.whl"
    return f"/files/test/{here.upstream.files_url[7:]}/packages/{project}/{name}"


def get(path: str, *fields: str) -> bytes:
    """A request that ends its connection."""
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", "Connection: close", *fields, "", ""]).encode()


# --- followers


def test_a_refused_follower_takes_nobody_else_along(here: World) -> None:
    """406 on a list that others follow: they still get all of it (each refusal once closed the fill twice)."""
    lines = (f'<a href="/simple/{hashlib.sha256(b"%d" % n).hexdigest()}/">x</a>\n' for n in range(20_000))
    body = f"<!DOCTYPE html>{''.join(lines)}</html>".encode()
    gate = Gate()
    page = Answer(
        body=body,
        headers={"Content-Type": "text/html"},
        without=("Content-Encoding",),
        stall_after=1_500_000,
        gate=gate,
    )
    here.upstream.script("/simple/", page)
    with here.connect() as following, ThreadPoolExecutor(1) as pool:
        following.sendall(get("/simple/", "Accept: text/html"))
        begun = following.recv(1000)
        assert begun.startswith(b"HTTP/1.1 200")
        job = pool.submit(listen, following, begun)
        assert [here.get("/simple/", {"Accept": "image/png"}).status for _ in range(4)] == [406] * 4
        gate.open()
        got = job.result()
    assert (got.reset, got.body.count(b"<a href="), got.body.endswith(b"0\r\n\r\n")) == (False, 20_000, True)
    assert "Exception" not in here.proxy.stderr


def descriptors(here: World) -> list[str]:
    """What the proxy's open files are called (Linux)."""
    names = []
    for each in Path(f"/proc/{here.proxy.process.pid}/fd").iterdir():
        try:
            names.append(os.readlink(each))
        except FileNotFoundError:
            continue
    return names


def slow_ranges(exchange: Exchange) -> None:
    """A range of the file takes twenty seconds, if it is taken to its end; the whole comes at once."""
    (Answer(rate=MIB) if "range" in exchange.seen.headers else polite)(exchange)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into /proc")
def test_relays_end_with_their_clients(here: World) -> None:
    """A range that nobody waits for any more is not fetched on; the file itself is still to be had at once."""
    name = fresh_name("big")
    file = here.publish(blob(name, size=20 * MIB))
    assert here.page(name).status == 200
    here.script_file(file, slow_ranges)
    for number in range(12):
        with here.connect() as leaving:
            leaving.sendall(get(here.path_of(file), f"Range: bytes={number}-"))
            if number < 3:
                assert leaving.recv(100).startswith(b"HTTP/1.1 206")
    eventually(lambda: not any("(deleted)" in each for each in descriptors(here)), "nameless files are gone", 10)
    assert right(here.file(file), file)
    assert all(each.sent < 5 * MIB for each in here.file_requests(file) if "range" in each.headers)


def test_many_ranges_at_once_wait_for_each_other(here: World) -> None:
    """The tails of many big wheels, as uv asks for them: none is refused."""
    files = [blob(fresh_name("tail"), size=2 * MIB, seed=number) for number in range(16)]
    here.publish(*files)
    gate = Gate()
    for file in files:
        assert here.page(file.project).status == 200
        here.script_file(file, Answer(held=gate))
    with ThreadPoolExecutor(16) as pool:
        jobs = [pool.submit(here.file, file, {"Range": "bytes=-10000"}) for file in files]
        assert gate.reached.wait(20)
        gate.open()
        answers = [job.result() for job in jobs]
    assert [each.status for each in answers] == [206] * 16
    for file, got in zip(files, answers, strict=True):
        assert got.body == b"".join(file.body.read(2 * MIB - 10_000, 2 * MIB))


def test_a_client_that_does_not_read_delays_nobody(here: World) -> None:
    """One follower stands still while another takes the whole file."""
    name = fresh_name("big")
    file = here.publish(blob(name, size=20 * MIB))
    assert here.page(name).status == 200
    with here.connect() as still:
        still.sendall(get(here.path_of(file)))
        assert still.recv(10)
        assert right(here.file(file), file)


# --- sendfile that does not work

NO_SENDFILE = """
import errno, os
def sendfile(*arguments):
    raise OSError(errno.EINVAL, "injected")
os.sendfile = sendfile
"""


def test_a_file_system_without_sendfile(tmp_path: Path) -> None:
    """Followers share one open file: without sendfile each reads by its own position, never by the file's."""
    (tmp_path / "sitecustomize.py").write_text(NO_SENDFILE)
    with world(tmp_path / "proxy", environment={"PYTHONPATH": str(tmp_path)}) as here:
        file = here.publish(blob("big", size=3 * MIB))
        assert here.page("big").status == 200
        gate, begun = Gate(), threading.Barrier(9)
        here.script_file(file, Answer(stall_after=MIB, gate=gate))

        def follow() -> Fetched:
            begun.wait(20)
            return here.file(file)

        with ThreadPoolExecutor(8) as pool:
            jobs = [pool.submit(follow) for _ in range(8)]
            begun.wait(20)
            gate.open()
            assert all(right(job.result(), file) for job in jobs)
        eventually(lambda: here.kept(file), "the file is kept")
        assert right(here.file(file), file)
        got = here.file(file, {"Range": "bytes=1000000-1000099"})
        assert got.body == b"".join(file.body.read(1_000_000, 1_000_100))


# --- pages and their listings


def asked_for(here: World, project: str, times: int) -> bool:
    """Whether the upstream was asked for the page so often."""
    return len(here.page_requests(project)) >= times


def test_a_listing_that_was_lost(tmp_path: Path) -> None:
    """Rows are evicted one by one: a page without its listing is no proof that a file is missing."""
    with world(tmp_path, {"freshness": {"min_reload_interval": "0s"}}) as here:
        fresh, stale = here.publish(wheel("fresh")), here.publish(wheel("stale"))
        here.script("stale", Answer(headers=STALE))
        assert [here.page(each.project).status for each in (fresh, stale)] == [200, 200]
        assert here.proxy.terminate() == 0
        query(here.proxy.cache / "responses", "DELETE FROM Cache WHERE key LIKE 'listing|%'")
        here.proxy.start()
        assert here.page("fresh").hit
        assert right(here.file(fresh), fresh)
        # While a revalidation of the page is under way, the file's look joins it: a 304 brings no listing.
        gate = Gate()
        here.script("stale", Answer(headers=STALE, held=gate))
        with ThreadPoolExecutor(1) as pool, here.connect() as connection:
            page = pool.submit(here.page, "stale")
            assert gate.reached.wait(20)
            connection.sendall(get(here.path_of(stale)))
            assert here.get("/healthz").status == 200  # the request before it has been taken up by now
            gate.open()
            assert page.result().status == 200
            assert listen(connection).body == stale.data


def test_an_unknown_file_and_an_upstream_that_fails(tmp_path: Path) -> None:
    """Only an upstream that answers can say that a file is missing: 503, never 404; asked once, not for each."""
    with world(tmp_path) as here:
        here.publish(wheel("six"))
        here.script("six", Answer(headers=STALE))
        assert here.page("six").status == 200
        assert here.proxy.terminate() == 0
        query(here.proxy.cache / "responses", "DELETE FROM Cache WHERE key LIKE 'page|%'")
        here.proxy.start()
        here.script("six", busy(503))
        asked = len(here.page_requests("six"))
        answers = [here.get(unlisted(here, "six", f"{number}.0")) for number in range(5, 10)]
        assert [each.status for each in answers] == [503] * 5
        assert all(1 <= int(each.headers["retry-after"]) <= 10 for each in answers)
        assert len(here.page_requests("six")) - asked == 1
        here.upstream.stop()
        assert here.get(unlisted(here, "other")).status == 503


@pytest.mark.parametrize("control", ["no-store", "max-age=0", "max-age=600"])
def test_one_look_for_many_unknown_files(here: World, control: str) -> None:
    """Also where the page is not kept, so that no stored time tells of the last look."""
    name = fresh_name()
    here.publish(wheel(name))
    here.script(name, Answer(headers={"Cache-Control": control}))
    assert [here.get(unlisted(here, name, f"{number}.0")).status for number in range(5, 10)] == [404] * 5
    assert len(here.page_requests(name)) == 1


def test_a_page_that_changes_while_it_is_served(tmp_path: Path) -> None:
    """A version that is replaced between two reads is no eviction: nobody gets a 503 for it."""
    with world(tmp_path, {"freshness": {"stale_while_revalidate": "1h", "min_reload_interval": "0s"}}) as here:
        here.publish(wheel("busy"))
        here.script("busy", Answer(headers=STALE))
        assert here.page("busy").status == 200
        over = threading.Event()

        def keep_asking(accept: str) -> set[int]:
            statuses = set()
            while not over.is_set():
                statuses.add(here.get("/simple/busy/", {"Accept": accept}).status)
            return statuses

        with ThreadPoolExecutor(4) as pool:
            jobs = [pool.submit(keep_asking, accept) for accept in (JSON_V1, "text/html", "*/*", JSON_V1)]
            for number in range(2, 60):
                here.publish(wheel("busy", f"{number}.0"))
                enough = len(here.page_requests("busy")) + 1
                eventually(partial(asked_for, here, "busy", enough), "the page is asked for")
            over.set()
            assert set().union(*(job.result() for job in jobs)) == {200}


# --- bodies


@pytest.fixture(scope="module")
def plain() -> Iterator[Upstream]:
    """An upstream with HTML pages that say no sizes."""
    with Upstream() as made:
        made.index.html_only()
        yield made


def test_a_hash_is_proof_enough(tmp_path: Path, plain: Upstream) -> None:
    """A pinned file whose upstream gives no length, nor its page: the hash shows that it is whole."""
    with world(tmp_path, indexes=lambda _: {"plain": plain.url}) as here:
        files = [wheel("hashed", padding=200_000), wheel("cut", padding=200_000), wheel("unpinned", padding=200_000)]
        plain.index.add(*files)
        hashed, short, unpinned = files
        plain.script(plain.path_of(hashed), Answer(framing="close"))
        plain.script(plain.path_of(short), Answer(framing="close", stop_after=150_000))
        plain.script(plain.path_of(unpinned), Answer(framing="close"))
        url = {each: here.proxy.file_url(plain.location(each), "plain") for each in files}
        assert right(fetch(url[hashed]), hashed)
        assert not fetch(url[short]).complete
        plain.index.hashes = False
        assert not right(fetch(url[unpinned]), unpinned)
        plain.index.hashes = True


def test_a_replaced_file_is_found_by_its_page(tmp_path: Path) -> None:
    """A wrong hash asks the page again: a mirror may have another file by now, and its page says so."""
    with world(tmp_path, {"freshness": {"min_reload_interval": "0s"}}) as here:
        old, new = blob("six", size=100_000, seed=1), blob("six", size=100_000, seed=2)
        here.publish(old)
        assert here.page("six").status == 200
        here.upstream.index.remove(old)
        here.publish(new)
        assert not right(here.file(old), old)
        assert right(here.file(new), new)


@pytest.mark.parametrize("project", ["foo-2-bar", "foo-bar", "foo"])
def test_old_sdist_names(here: World, project: str) -> None:
    """Where the version begins cannot be told from the name: a lock file's sdist is found on a cold proxy."""
    name = fresh_name(project)
    made = wheel(name)
    renamed = Distribution(name, "1.0", f"{name}-1.0.tar.gz", made.body, made.size, made.sha256)
    here.publish(renamed)
    assert right(here.file(renamed), renamed)


# --- big pages


def test_a_big_page_does_not_stop_the_others(here: World) -> None:
    """20,000 files on one page: other clients are answered while it is read, and its files are found."""
    name = fresh_name("nightly")
    module = name.replace("-", "_")
    files = [f"{module}-{number}.0-py3-none-any.whl" for number in range(20_000)]
    listed = [
        {"filename": each, "url": f"../../packages/{name}/{each}", "hashes": {"sha256": "ab" * 32}, "size": number}
        for number, each in enumerate(files)
    ]
    document = {"meta": {"api-version": "1.1"}, "name": name, "files": listed, "versions": []}
    here.script(name, Answer(status=200, body=json.dumps(document).encode(), headers={"Content-Type": JSON_V1}))
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(here.get, f"/simple/{name}/", AS_JSON)
        answered = 0
        while not job.done():
            assert here.get("/healthz").status == 200
            answered += 1
        got = job.result()
    assert len(json.loads(got.body)["files"]) == 20_000
    assert answered >= 2
    path = f"/files/test/{here.upstream.origin[7:]}/packages/{name}/{files[7]}"
    head = here.get(path, method="HEAD")
    assert (head.status, head.headers["content-length"]) == (200, "7")
    assert len(here.page_requests(name)) == 1


def test_who_leaves_casts_no_doubt_on_a_file(here: World) -> None:
    """A cut connection says nothing of the disk: the file is not read again, and a crowd of leavers does not make it a
    damaged one (after three doubts it was removed)."""
    file = here.publish(blob(fresh_name(), size=8 * MIB))
    path = here.path_of(file)
    assert right(here.file(file), file)
    eventually(lambda: here.get(path, method="HEAD").hit, "it is kept")
    assert right(here.file(file), file)

    def verified() -> float:
        answer = here.get("/metrics")
        return parsed(answer.body.decode(), answer.headers["content-type"]).sum("pipcacheproxy_verified_bodies_total")

    before, lines = verified(), len(here.proxy.requests(path))
    for _ in range(5):
        with here.connect() as connection:
            connection.sendall(get(path))
            assert connection.recv(1000)
    here.proxy.wait_for_log(lambda _: len([each for each in here.proxy.requests(path)[lines:] if each["aborted"]]) == 5)
    assert right(here.file(file), file)
    assert verified() == before
