"""G2: power lost at any moment: what the disk may hold then is opened by the real store, and some by a server."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from proxy.directory import ROOMS
from proxy.disk import unseal
from proxy.entries import MARK, load_entry
from proxy.errors import StoreFailed
from proxy.store import Store
from tests.harness.admin import ask, refresh
from tests.harness.behaviours import Answer
from tests.harness.fetch import fetch
from tests.harness.packages import Distribution, blob
from tests.harness.server import ProxyServer
from tests.harness.upstream import Upstream
from tests.harness.waiting import eventually
from tests.harness.world import World
from tests.keeping import files_in, query
from tests.promises.powerloss import FATES, Fate, State, everything, states
from tests.promises.promise import Measured, Promise, Size
from tests.promises.recorded import Names, Recording, prefix

PROMISE = Promise(
    "G2",
    "power loss",
    "every prefix of the recorded operations, un-fsynced writes kept, dropped or torn (>= 500 states): 0 wrong bytes,"
    " no head without its body served",
)
LEAST = 500
# In CI, after so many of the changes, one state each: some are alike. A server opens a few of them.
CI_STATES, SERVERS = 680, 5
# In these a directory is made: what goes wrong here, no later start puts right.
FIRST = 40
# A room that has to evict in the second life, where one object takes at most a quarter.
SMALL = "400KB"
SIZES = (3_000, 70_000, 90_000, 95_000, 80_000, 85_000)
LIMIT = 10**9
GONE = "http://127.0.0.1:9/simple/"


def measure(size: Size, directory: Path) -> Measured:
    """Record one server's two lives, then look at what a disk could hold in the middle of them; see `Promise`."""
    assert shutil.which("strace") is not None, "strace is missing"
    files = [blob(f"kept{number}", size=each, seed=number) for number, each in enumerate(SIZES)]
    with Upstream(*files[:-1]) as upstream:
        recording = _recorded(directory, upstream, files[-1])
    known = {each.sha256 for each in files}
    with _fast(directory) as scratch:
        lies = _lies_of_a_disk_that_ignores_syncs(recording, scratch)
        assert lies, "where no sync is heeded there are rows whose bodies are wrong: none was seen"
        found, looked_at = Counter[str](), 0
        servers = list[State]()
        for state in _chosen(recording, size):
            found += asyncio.run(_looked_at(state, scratch, known))
            looked_at += 1
            if looked_at % (LEAST // SERVERS) == 0 and len(servers) < SERVERS * (1 if size == "ci" else 10):
                servers.append(state)
        for number, state in enumerate(servers):
            found += _served(state, directory / f"after{number}", known)
    found = +found
    figure = (
        f"{looked_at:,} states of {recording.changes:,} changes, {len(servers)} with a server: "
        f"{found['wrong bytes']} wrong bytes, {found['heads without a body']} heads without their body served,"
        f" {found['left over']} orphans, {found['failed starts']} failed starts"
        f" ({lies} wrong bodies on a disk that ignores fsync)"
    )
    shortfalls = [f"{count} {what}" for what, count in found.items()]
    if looked_at < LEAST:
        shortfalls.append(f"only {looked_at} states")
    return Measured(figure, tuple(shortfalls))


def _recorded(directory: Path, upstream: Upstream, late: Distribution) -> Recording:
    """A server that fills its cache, changes and empties it, and ends; and one that finds it so and has to evict."""
    proxy = ProxyServer(directory / "recorded", {"test": upstream.url}, mounts={"tree": upstream.origin})
    here = World(proxy, upstream)
    recording = Recording(proxy.cache)
    first, *others = upstream.index.distributions
    upstream.script(upstream.path_of(first), Answer(headers={"Cache-Control": "no-cache"}))
    for life, work in enumerate((_first_life, _second_life)):
        calls = directory / f"calls{life}"
        proxy.prefix = prefix(calls)
        proxy.start()
        try:
            work(here, first, others, late)
            assert proxy.terminate() == 0
        finally:
            proxy.kill()
        recording.read(calls)
        assert everything(recording).tree == _tree(proxy.cache), "something was done that was not recorded"
        proxy.settings = {"cache": {"max_size": SMALL}}
    return recording


def _tree(directory: Path) -> tuple[tuple[str, bytes | None], ...]:
    """All that lies in a directory, in the order of a `State`."""

    def below(place: Path) -> Iterator[tuple[str, bytes | None]]:
        for each in sorted(place.iterdir(), key=lambda path: path.name):
            yield str(each.relative_to(directory)), None if each.is_dir() else each.read_bytes()
            if each.is_dir():
                yield from below(each)

    return tuple(below(directory))


def _first_life(here: World, first: Distribution, others: Iterable[Distribution], late: Distribution) -> None:
    _fetched(here, first, *others)
    for _ in range(2):  # the second time its head is written anew
        assert here.get(f"/raw/tree{here.upstream.path_of(first)}").status == 200
        eventually(lambda: "mounts" in "".join(_paths(here)), "the mount's answer is kept")
    here.publish(late)
    assert refresh(here, first.project).status == 200
    assert ask(here, "POST", "/admin/cache/remove", {"pattern": first.project}).status == 200
    _fetched(here, first)
    assert ask(here, "POST", "/admin/cache/purge", {}).status == 200
    _fetched(here, first, late)


def _second_life(here: World, first: Distribution, others: Iterable[Distribution], late: Distribution) -> None:
    _fetched(here, *others)


def _fetched(here: World, *files: Distribution) -> None:
    """All of them, each on the disk before the next."""
    for file in files:
        assert here.page(file.project).status == 200
        assert here.file(file).sha256 == file.sha256
        eventually(partial(_is_kept, here, file), f"{file.filename} is kept")


def _is_kept(here: World, file: Distribution) -> bool:
    return any(file.filename in each for each in _paths(here))


def _paths(here: World) -> list[str]:
    """Of all bodies that are listed."""
    got = ask(here, "GET", "/admin/cache/list?kind=wheel&kind=mount&limit=1000")
    return [each["path"] for each in json.loads(got.body)["files"]]


def _chosen(recording: Recording, size: Size) -> Iterator[State]:
    """All fates after each change; in CI, but for the first, one of them, in turn, and after fewer of the changes."""
    turns = iter(range(recording.changes))

    def fates(number: int) -> Sequence[Fate]:
        if size == "long" or number <= FIRST:
            return FATES
        if number * CI_STATES // recording.changes == (number - 1) * CI_STATES // recording.changes:
            return ()
        return (FATES[next(turns) % len(FATES)],)

    return states(recording, fates)


def _lies_of_a_disk_that_ignores_syncs(recording: Recording, scratch: Path) -> int:
    """Rows whose body is there and is wrong: what there would be if bodies were not synced before their rows."""
    incoming = recording.directories[0]["incoming"]
    named = [change for event in recording.events if isinstance(event, Names) for change in event.changes]
    spooled = {node for directory, _, node in named if directory == incoming and node is not None}
    fates: Sequence[Fate] = ("names kept", "some kept")
    lies = 0
    for state in states(recording, lambda number: () if number % 20 else fates, ignored=spooled):
        with _written(state, scratch) as place, suppress(sqlite3.Error):
            lies += _lies(place)
    return lies


async def _looked_at(state: State, scratch: Path, known: set[str]) -> Counter[str]:
    """What must not be, in a store that opens that state, before its sweep and after it."""
    found = Counter[str]()
    with _written(state, scratch) as place:
        try:
            store = await Store.open(
                place, max_size=LIMIT, responses_max_size=LIMIT, mounts_max_size=LIMIT, min_free=0, ballast=0
            )
        except StoreFailed:
            return Counter({"failed starts": 1})
        try:
            # On the disk itself, too: what is verified before it is served must not hide it.
            found["wrong bytes"] += _lies(place)
            found += await _asked(store, known, swept=False)
            await store.swept()
            found += await _asked(store, known, swept=True)
        finally:
            await store.close()
    return found


async def _asked(store: Store, known: set[str], *, swept: bool) -> Counter[str]:
    found = Counter[str]()
    named = set[str]()
    for room in ROOMS:
        for (key,) in query(store.directory / room, "SELECT key FROM Cache"):
            if room == "responses":
                value = await store.read(key)
                if value is not None and value.startswith(MARK) and load_entry(value).key != key:
                    found["wrong bytes"] += 1
                continue
            body = await store.stored(room, key)
            if body is None:
                found["heads without a body"] += swept
                continue
            with body.handle as handle:
                digest = hashlib.sha256(handle.read()).hexdigest()
            named.add(body.entry.body)
            found["wrong bytes"] += digest != body.entry.sha256 or digest not in known
        if swept and room != "responses":
            found["left over"] += len({f"{room}/{name}" for name in files_in(store.directory / room)} - named)
    found["left over"] += swept and len(os.listdir(store.directory / "incoming"))
    return found


def _lies(place: Path) -> int:
    """Rows whose body is there and is another."""
    lies = 0
    for room in ("wheels", "mounts"):
        select = "SELECT key, filename, value FROM Cache WHERE filename IS NOT NULL"
        for key, filename, value in query(place / room, select) if (place / room / "cache.db").exists() else ():
            entry = load_entry(unseal(value, key.encode()))
            with suppress(OSError):
                lies += hashlib.sha256((place / room / filename).read_bytes()).hexdigest() != entry.sha256
    return lies


def _served(state: State, directory: Path, known: set[str]) -> Counter[str]:
    """What a real server makes of it, whose upstream is gone: what it gives is right."""
    found = Counter[str]()
    (directory / "cache").mkdir(parents=True)
    state.write(directory / "cache")
    with ProxyServer(directory, {"test": GONE}) as proxy:
        got = ask(World(proxy, Upstream()), "GET", "/admin/cache/list?kind=wheel&limit=1000")
        for each in json.loads(got.body)["files"]:
            answer = fetch(proxy.file_url(each["url"].partition("://")[2]))
            if answer.status == 200:
                found["wrong bytes"] += not answer.complete or answer.sha256 not in known
    return found


@contextmanager
def _written(state: State, scratch: Path) -> Iterator[Path]:
    """The state as a directory, which is gone afterwards."""
    with tempfile.TemporaryDirectory(dir=scratch) as place:
        state.write(Path(place))
        yield Path(place)


@contextmanager
def _fast(directory: Path) -> Iterator[Path]:
    """Where thousands of directories are made and synced: in memory, where there is such a place."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else directory) as scratch:
        yield Path(scratch)
