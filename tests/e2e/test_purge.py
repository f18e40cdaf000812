"""Removing while the proxy works: who is being served is served to the end, and nothing comes back by itself."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.harness.behaviours import Answer
from tests.harness.clients import Fresh, Pip, pip_install
from tests.harness.exchange import Gate
from tests.harness.fetch import Fetched
from tests.harness.index import JSON_V1
from tests.harness.packages import Distribution, blob, wheel
from tests.harness.reader import Reader
from tests.harness.waiting import eventually
from tests.harness.world import PATIENCE, World, fresh_name, world

CLIENTS = 50
READERS = 10
KIB, MIB = 1024, 1024 * 1024
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Place(World):
    """A world with an operator, whose token is where the server has put it."""

    def admin(self, path: str, question: Json | None = None) -> Json:
        """An answer of the admin API; a question is POSTed."""
        token = (self.proxy.cache / "admin.token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        data = None if question is None else json.dumps(question).encode()
        request = urllib.request.Request(f"{self.proxy.url}/admin/cache/{path}", data, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            told: Json = json.load(answer)
        return told

    def purge(self) -> list[str]:
        """Everything goes; the names of the files among it."""
        return [each["filename"] for each in self.admin("purge", {})["removed"] if each["filename"]]

    def remove(self, file: Distribution) -> list[str]:
        """All files of its project go; their names."""
        pattern = file.filename.partition("-")[0]
        return [each["filename"] for each in self.admin("remove", {"pattern": pattern})["removed"]]

    def wheels(self) -> list[str]:
        """The names of the wheels that are listed."""
        return [each["filename"] for each in self.admin("list?kind=wheel")["files"]]

    def is_empty(self) -> None:
        """Nothing is left: not in the list, not in the sums, not on the disk, and not in incoming/ once what is under
        way has ended: a spool goes after the last byte of its file."""
        eventually(lambda: not self.proxy.spooled(), "no spool is left")
        assert [self.admin(f"list?kind={kind}")["files"] for kind in ("wheel", "sdist", "response")] == [[], [], []]
        info = self.admin("info")
        assert [info[kind] for kind in ("wheels", "sdists", "responses")] == [{"count": 0, "bytes": 0}] * 3
        assert self.proxy.stored() == []

    def is_kept(self, file: Distribution) -> None:
        """The file is a hit; adoption follows the last byte."""
        eventually(lambda: self.file(file).hit, "the file is kept")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One proxy for all of these; each begins with what the others left."""
    settings = {"freshness": {"min_reload_interval": "1h", "negative_ttl": "1h"}}
    with world(tmp_path_factory.mktemp("purge"), settings) as running:
        yield Place(running.proxy, running.upstream)


@pytest.fixture
def running() -> Iterator[Callable[..., Future[Fetched]]]:
    """``running(get, path)`` does it on a thread of its own."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        yield pool.submit


def held(running: Callable[..., Future[Fetched]], gate: Gate, ask: Callable[[], Fetched]) -> Future[Fetched]:
    """A request that waits at the gate for the upstream. One that comes while its predecessor's fetch is not quite
    over, though kept, shares that, and is answered: then it is asked again."""
    asked = running(ask)

    def waits() -> bool:
        nonlocal asked
        if asked.done():
            asked = running(ask)
        return gate.reached.wait(0.1)

    eventually(waits, "the upstream is asked")
    return asked


def stalled(place: Place, size: int = MIB) -> tuple[Distribution, Gate]:
    """A file whose upstream stops in the middle, the first time it is asked; its page is known."""
    file, gate = place.publish(blob(fresh_name(), size=size)), Gate()
    place.script_file(file, Answer(stall_after=size // 2, gate=gate), Answer())
    assert place.page(file.project).status == 200
    return file, gate


def test_fifty_downloads_outlive_a_purge(place: Place) -> None:
    """All are in the middle of a file that is in the middle of its way: all get it, right, and the cache is empty; the
    next one makes it be fetched again, once, and then it is kept."""
    file, gate = stalled(place)
    path = place.path_of(file)
    with ThreadPoolExecutor(CLIENTS) as pool:
        readers = list(pool.map(lambda _: Reader(place, path), range(CLIENTS)))
        place.purge()
        gate.open()
        assert [*pool.map(Reader.rest, readers)] == [file.sha256] * CLIENTS
    place.is_empty()
    assert len(place.file_requests(file)) == 1
    again = place.file(file)
    assert (again.status, again.sha256, again.hit) == (200, file.sha256, False)
    place.is_kept(file)
    assert len(place.file_requests(file)) == 2
    assert place.wheels() == [file.filename]


def test_who_comes_after_a_purge_does_not_wait_for_what_was_begun_before(place: Place) -> None:
    """The old fill stands still with its follower; a crowd behind the purge shares one new fill, which is kept, also
    once the old one comes to its end."""
    file, gate = stalled(place)
    path = place.path_of(file)
    first = Reader(place, path)
    place.purge()
    with ThreadPoolExecutor(READERS) as pool:
        readers = list(pool.map(lambda _: Reader(place, path), range(READERS)))
        assert [*pool.map(Reader.rest, readers)] == [file.sha256] * READERS
    assert len(place.file_requests(file)) == 2
    place.is_kept(file)
    gate.open()
    assert first.rest() == file.sha256
    eventually(lambda: not place.proxy.spooled(), "the old spool is gone")
    assert place.wheels() == [file.filename]
    assert [path.name for path in place.proxy.stored()] == [file.filename]
    assert place.file(file).hit
    assert len(place.file_requests(file)) == 2


def test_a_range_of_what_was_begun_before_a_purge_is_not_shown(place: Place) -> None:
    """A range is answered from a fill under way, but not from one whose file was removed: it may be what had to go."""
    file, gate = stalled(place)
    follower = Reader(place, place.path_of(file))
    place.purge()
    part = place.file(file, {"Range": "bytes=0-99"})
    assert (part.status, len(part.body)) == (206, 100)
    assert len(place.file_requests(file)) == 2
    gate.open()
    assert follower.rest() == file.sha256


def test_removing_one_project_leaves_others_alone(place: Place) -> None:
    """What is kept of them stays, what is on its way is kept, and their pages are not asked for again."""
    (gone, gate), (other, other_gate) = stalled(place), stalled(place)
    stays = place.publish(blob(fresh_name(), size=KIB))
    assert place.page(stays.project).status == place.file(stays).status == 200
    place.is_kept(stays)
    readers = [Reader(place, place.path_of(each)) for each in (gone, other)]
    assert place.remove(gone) == []
    gate.open()
    other_gate.open()
    assert [each.rest() for each in readers] == [gone.sha256, other.sha256]
    place.is_kept(other)
    assert place.file(stays).hit
    assert not place.kept(gone)
    for file in (stays, other):
        assert place.page(file.project).hit
        assert len(place.page_requests(file.project)) == len(place.file_requests(file)) == 1


KINDS = {
    "page": ("/simple/{}/", JSON_V1),
    "page-html": ("/simple/{}/", "text/html"),
    "document": ("/pypi/{}/json", "*/*"),
    "list": ("/simple/", JSON_V1),
    "list-html": ("/simple/", "text/html"),
}


@pytest.mark.parametrize(
    ("kind", "stored"),
    [*((kind, False) for kind in KINDS), *((kind, True) for kind in KINDS if not kind.startswith("list"))],
)
def test_a_purge_while_an_index_is_asked_leaves_nothing(
    kind: str, stored: bool, place: Place, running: Callable[..., Future[Fetched]]
) -> None:
    """Whether it sends something new or a 304 for what is gone: the client gets its answer, nothing of it is kept, no
    head without its body; who asks then makes a look of his own, which is kept."""
    template, accept = KINDS[kind]
    path, headers = template.format(place.publish(wheel(fresh_name())).project), {"Accept": accept}
    place.purge()
    place.upstream.forget()
    if stored:
        place.upstream.script(path, Answer(headers={"Cache-Control": "max-age=0"}))
        assert place.get(path, headers).status == 200
        eventually(lambda: place.admin("list?kind=response")["files"], "it is kept")
    gate = Gate()
    place.upstream.script(path, Answer(held=gate), Answer())
    first = held(running, gate, lambda: place.get(path, headers))
    place.purge()
    second = place.get(path, headers)
    assert (second.status, second.hit) == (200, False)
    place.purge()
    gate.open()
    assert (first.result().status, first.result().body) == (200, second.body)
    place.is_empty()
    third = place.get(path, headers)
    assert (third.status, third.hit, third.body) == (200, False, second.body)
    eventually(lambda: place.get(path, headers).hit, "the last look is kept")
    assert len(place.upstream.asked(path)) == 3 + stored


def test_a_list_that_is_purged_while_it_proves_unchanged_is_asked_for_whole(
    place: Place, running: Callable[..., Future[Fetched]]
) -> None:
    """There is nothing left that the 304 speaks of; what is asked for now is asked for after the purge, and kept."""
    place.publish(wheel(fresh_name()))
    place.purge()
    place.upstream.forget()
    gate = Gate()
    place.upstream.script("/simple/", Answer(headers={"Cache-Control": "max-age=0"}), Answer(held=gate), Answer())
    headers = {"Accept": JSON_V1}
    known = place.get("/simple/", headers)
    eventually(lambda: place.admin("list?kind=response")["files"], "it is kept")
    asked = held(running, gate, lambda: place.get("/simple/", headers))
    place.purge()
    gate.open()
    assert (asked.result().status, asked.result().body) == (200, known.body)
    eventually(lambda: place.get("/simple/", headers).hit, "it is kept")
    conditions = [bool(each.headers.get("if-none-match")) for each in place.upstream.asked("/simple/")]
    assert conditions == [False, True, False]


def test_a_purge_while_metadata_is_coded_leaves_nothing(place: Place, running: Callable[..., Future[Fetched]]) -> None:
    """Neither the body nor what was made of it."""
    needs = [f"{fresh_name()} >= 1.0" for _ in range(50)]
    file, gate = place.publish(wheel(fresh_name(), requires=needs)), Gate()
    assert place.page(file.project).status == 200
    place.script_file(file, Answer(held=gate), Answer(), suffix=".metadata")
    asked = running(place.file, file, {"Accept-Encoding": "gzip"}, suffix=".metadata")
    assert gate.reached.wait(PATIENCE)
    place.purge()
    after = place.file(file, {"Accept-Encoding": "gzip"}, suffix=".metadata")
    assert not asked.done()
    place.purge()
    gate.open()
    assert asked.result().decoded == after.decoded == file.metadata
    place.is_empty()
    assert len(place.file_requests(file, ".metadata")) == 2


def test_a_file_whose_page_is_purged_while_it_is_looked_at_is_found(
    place: Place, running: Callable[..., Future[Fetched]]
) -> None:
    """The look tells who waits for it what it found, though nothing of it is kept; the next request looks again, for
    the one before it found nothing that is still known."""
    file, gate = place.publish(wheel(fresh_name())), Gate()
    place.script(file.project, Answer(held=gate), Answer())
    asked = running(place.file, file)
    assert gate.reached.wait(PATIENCE)
    place.purge()
    gate.open()
    assert (asked.result().status, asked.result().sha256) == (200, file.sha256)
    assert place.file(file).sha256 == file.sha256
    place.is_kept(file)
    assert len(place.page_requests(file.project)) == 2


def test_what_pages_listed_is_forgotten_with_them(place: Place) -> None:
    """In memory, too, and also what looks for the sake of a file came to: a file is asked for as its page says now, and
    one that the page dropped is not."""
    stays, dropped = place.publish(wheel(fresh_name())), place.publish(wheel(fresh_name()))
    assert [place.file(file).status for file in (stays, dropped)] == [200, 200]
    place.upstream.index.remove(dropped)
    place.purge()
    assert [place.file(file).status for file in (stays, dropped)] == [200, 404]
    assert [len(place.page_requests(file.project)) for file in (stays, dropped)] == [2, 2]


def test_a_missing_project_is_looked_for_again_after_a_purge(
    place: Place, running: Callable[..., Future[Fetched]]
) -> None:
    """A 404 is remembered in memory only: a removal drops it, and one that arrives behind it is not remembered."""
    file, gate = wheel(fresh_name()), Gate()
    missing = Answer(status=404, body=b"")
    place.script(file.project, missing, missing, Answer(status=404, body=b"", held=gate), Answer())
    assert place.page(file.project).status == place.page(file.project).status == 404
    seen = len(place.page_requests(file.project))
    place.script(file.project, Answer(status=404, body=b"", held=gate), Answer())
    place.purge()
    asked = running(place.page, file.project)
    assert gate.reached.wait(PATIENCE)
    place.publish(file)
    place.purge()
    gate.open()
    assert asked.result().status == 404
    assert place.page(file.project).status == 200
    assert len(place.page_requests(file.project)) == seen + 2


def test_a_removal_ends_the_rest_after_wrong_bodies(place: Place) -> None:
    """Two wrong bodies make a file rest for a minute; who removes it wants it to be tried again."""
    file = place.publish(blob(fresh_name(), size=KIB))
    place.script_file(file, Answer(corrupt=7))
    assert place.page(file.project).status == 200
    assert [place.file(file).status for _ in range(3)] == [502, 502, 503]
    asked = len(place.file_requests(file))
    place.script_file(file)
    assert place.remove(file) == []
    assert place.file(file).sha256 == file.sha256
    assert len(place.file_requests(file)) == asked + 1


def test_installs_go_on_while_everything_is_purged_again_and_again(place: Place, new_pip: Pip, tmp_path: Path) -> None:
    """Whatever goes between two steps of an install, page, metadata or file, is fetched again: no client notices."""
    first, second = fresh_name(), fresh_name()
    place.publish(wheel(first, requires=[second], padding=200 * KIB), wheel(second, padding=200 * KIB))
    stop = threading.Event()

    def purging() -> int:
        times = 0
        while not stop.is_set():
            place.purge()
            times += 1
        return times

    with ExitStack() as ending, ThreadPoolExecutor(1) as pool:
        ending.callback(stop.set)
        purges = pool.submit(purging)
        for number in range(3):
            fresh = Fresh(tmp_path / f"client{number}")
            done = pip_install(new_pip, fresh, place.proxy.index_url, first)
            assert done.returncode == 0, done.stdout
            assert fresh.version_of(second.replace("-", "_")) == "1.0"
        stop.set()
        assert purges.result() > 3
    place.purge()
    place.is_empty()
