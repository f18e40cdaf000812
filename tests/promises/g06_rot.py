"""G6: what lies on the disk is not what was kept: bodies and databases, while a server runs and before it starts."""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.harness.fetch import Fetched
from tests.harness.packages import blob, wheel
from tests.harness.rot import cut, flip, scribble, seen_to_change, swap
from tests.harness.waiting import eventually
from tests.harness.world import AS_JSON, World, world
from tests.promises.promise import Measured, Promise, Size

PROMISE = Promise(
    "G6",
    "corruption at rest",
    "1,000 flips, truncations, swaps of files and 200 of the database: 0 wrong bodies, 100 % healed by next request",
)
BODIES = {"ci": 180, "long": 1_000}
DATABASES = {"ci": 15, "long": 201}
PROJECTS = 8
# All of one size: when two swap their names, nothing but their bytes tells.
BYTES = 40_000
HEALS_WITHIN = 10.0
_ROOMS = ("wheels", "responses", "mounts")


@dataclass(frozen=True, slots=True)
class Thing:
    """What is asked for, and the bytes it is. ``kept`` as a body of its own, in a file of that name."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    kept: str = ""


@dataclass(slots=True)
class Seen:
    """What came of the cases: how many there were of each sort, and what went wrong, in words."""

    cases: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    unhealed: list[str] = field(default_factory=list)


def measure(size: Size, directory: Path) -> Measured:
    """Damage, ask for everything, ask again; see `Promise`."""
    chance, seen = random.Random(6), Seen()
    settings = {"freshness": {"default_ttl": "7d", "max_ttl": "7d"}}
    mounts = {"tree": {"default_ttl": "7d"}}
    with world(
        directory, settings, mounts=lambda upstream: {"tree": {"url": f"{upstream.files_url}/", **mounts["tree"]}}
    ) as here:
        things = _warmed(here)
        _without_verification(here, things)
        while sum(seen.cases.values()) < BODIES[size]:
            _bodies(here, things, seen, chance)
        bodies = sum(seen.cases.values())
        while sum(seen.cases.values()) - bodies < DATABASES[size]:
            _databases(here, things, seen, chance)
        databases = sum(seen.cases.values()) - bodies
        assert here.proxy.terminate() == 0
    healed = 1 - len(seen.unhealed) / (bodies + databases)
    figure = f"{bodies} bodies and {databases} databases: {len(seen.wrong)} wrong, {healed:.0%} healed"
    told = ((seen.wrong, "wrong bodies"), (seen.failed, "errors"), (seen.unhealed, "not healed"))
    return Measured(
        f"{figure} ({', '.join(f'{count} {name}' for name, count in sorted(seen.cases.items()))})",
        tuple(f"{len(what)} {name}: {', '.join(what[:3])}" for what, name in told if what),
    )


def _warmed(here: World) -> list[Thing]:
    """Pages, lists, JSON documents, files, metadata and what a mount answers, all of it kept."""
    things: list[Thing] = []
    files = {
        name: (wheel(name, padding=3_000 + number), blob(name, "2.0", size=BYTES, seed=number))
        for number, name in enumerate(f"project{each:02}" for each in range(PROJECTS))
    }
    # All of them first: every page names the serial of the last change of the index.
    here.publish(*(each for pair in files.values() for each in pair))
    for number, (name, (made, plain)) in enumerate(files.items()):
        kept = f"b{number:02}-{plain.filename}"
        things += [
            _thing(here, f"/simple/{name}/", AS_JSON),
            _thing(here, f"/simple/{name}/", {"Accept": "text/html"}),
            # Its links begin with the address it was asked at, and a start takes another port.
            _thing(here, f"/pypi/{name}/json", {"Host": "cache.example.com"}),
            _thing(here, here.path_of(made), kept=made.filename),
            _thing(here, here.path_of(made, ".metadata"), kept=f"{made.filename}.metadata"),
            _thing(here, here.path_of(plain), kept=plain.filename),
            _thing(here, f"/raw/tree{here.upstream.path_of(plain)}?{number}", kept=kept),
        ]
    things.append(_thing(here, "/simple/", AS_JSON))
    return things


def _thing(here: World, path: str, headers: Mapping[str, str] | None = None, kept: str = "") -> Thing:
    first = here.get(path, headers)
    assert first.status == 200, (path, first.status)
    thing = Thing(path, headers or {}, first.body, kept)
    eventually(lambda: _ask(here, thing).hit, f"{path} is kept", HEALS_WITHIN)
    return thing


def _ask(here: World, thing: Thing) -> Fetched:
    return here.get(thing.path, thing.headers)


def _kept(here: World) -> list[Path]:
    """The bodies that lie in files."""
    files = (path for room in _ROOMS for path in (here.proxy.cache / room).rglob("*") if path.is_file())
    return sorted(path for path in files if not path.name.startswith("cache.db"))


def _without_verification(here: World, things: Sequence[Thing]) -> None:
    """The fault is one: who does not look sends the wrong bytes, complete and with the right length."""
    here.proxy.terminate()
    bodies = _kept(here)
    assert len(bodies) >= 4 * PROJECTS, bodies
    for path in bodies:
        flip(path, path.stat().st_size // 2)
    here.proxy.prefix = (sys.executable, "-m", "tests.harness.unproven")
    here.proxy.start()
    answers = [(thing, _ask(here, thing)) for thing in things if thing.kept]
    unnoticed = [each for thing, each in answers if each.status == 200 and each.complete and each.body != thing.body]
    assert len(unnoticed) == len(answers), f"{len(unnoticed)} of {len(answers)}"
    here.proxy.prefix = ()
    here.proxy.restart()
    _judge(here, things, Seen(), "")
    for path in bodies:
        assert not path.exists(), f"{path} is damaged and still there"


def _bodies(here: World, things: Sequence[Thing], seen: Seen, chance: random.Random) -> None:
    """Damage some bodies, of all kinds, before a start or behind the back of a server that runs."""
    running = chance.random() < 0.7
    if not running:
        here.proxy.terminate()
    bodies = _kept(here)
    chance.shuffle(bodies)
    equals = [path for path in bodies if path.stat().st_size == BYTES][: 2 * (PROJECTS // 3)]
    for one, other in zip(equals[::2], equals[1::2], strict=True):
        seen_to_change(one, partial(swap, other=other))
        seen.cases["swaps"] += 1
    for path in [each for each in bodies if each not in equals]:
        size = path.stat().st_size
        if size and chance.random() < 0.7:
            seen_to_change(path, partial(flip, at=chance.randrange(size), bit=chance.randrange(8)))
            seen.cases["flips"] += 1
        elif size:
            seen_to_change(path, partial(cut, size=chance.randrange(size)))
            seen.cases["truncations"] += 1
    if not running:
        here.proxy.start()
    _judge(here, things, seen, "bodies, running" if running else "bodies")


def _databases(here: World, things: Sequence[Thing], seen: Seen, chance: random.Random) -> None:
    """Damage each room's database; a server that runs has it open, and is started anew after a while."""
    running = chance.random() < 0.3
    if not running:
        here.proxy.terminate()
    ways = [scribble(here.proxy.cache / room / "cache.db", chance) for room in _ROOMS]
    seen.cases["databases"] += len(_ROOMS)
    told = f"databases ({', '.join(ways)})"
    if running:
        _judge(here, things, seen, f"{told}, running")
        here.proxy.terminate()
    here.proxy.start()
    _judge(here, things, seen, told)


def _judge(here: World, things: Sequence[Thing], seen: Seen, told: str) -> None:
    """Ask for everything: the right bytes, and again as often as it takes to be kept: once, as the row is written
    behind the answer."""
    for thing in things:
        answer = _ask(here, thing)
        if answer.status != 200 or not answer.complete:
            seen.failed.append(f"{told}: {answer.status} for {thing.path} {answer.body[:200]!r}")
        elif answer.body != thing.body:
            seen.wrong.append(f"{told}: {thing.path}")
    for thing in things:
        try:
            eventually(lambda each=thing: _healed(here, each, seen, told), thing.path, HEALS_WITHIN)  # type: ignore[misc]  # bound
        except AssertionError:
            seen.unhealed.append(f"{told}: {thing.path}")


def _healed(here: World, thing: Thing, seen: Seen, told: str) -> bool:
    answer = _ask(here, thing)
    if answer.status == 200 and answer.complete and answer.body != thing.body:
        seen.wrong.append(f"{told}, again: {thing.path}")
    return answer.hit and answer.body == thing.body
