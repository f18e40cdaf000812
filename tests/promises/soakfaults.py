"""The upstream of the long day, a process of its own: ``python -m tests.promises.soakfaults CLOCK PROJECTS
DIRECTORY``. The one that is elsewhere (``soakelsewhere``) is in it, too.

Of a hundred requests of each kind one meets each fault that there is for it. It goes by the clock of the server that
asks it. It says where it is in a line of JSON, and does what it is told on standard input, a word a line: ``publish``,
``faults``, ``peace``, ``away``, ``back``, and ``tell``, to which it answers how often which fault struck; any other
word is what the one elsewhere is to become.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from tests.harness.behaviours import Answer, Behaviour, busy, cut, hang_up, polite, redirect, reset_at_once
from tests.harness.clocked import follow
from tests.harness.exchange import Exchange
from tests.harness.upstream import Upstream
from tests.promises.soakelsewhere import Elsewhere
from tests.promises.soakworld import Day

IDLE = 1.5
"""Seconds after which a silent upstream counts as gone, as the server is configured."""
FIRST_BYTE = 3.0
"""The same before the first byte."""
SLOW = 1.2
"""Seconds that are too many for a page of which an older one is at hand."""
APART = 10.0
"""Real seconds between two times that the same page is missing, at least."""
LATELY = 1800.0
"""Seconds of the day within which a page that was asked for is surely known."""
SLOTS = 100
_LOGIN = b"<!DOCTYPE html><html><body><form action='/login'><a href='/help'>help</a></form></body></html>"
_HTML = {"Content-Type": "text/html"}
_UNNAMED = ("ETag", "Last-Modified", "Cache-Control")
_TAGS = (*_UNNAMED[:2], "Content-Encoding")
_UNVALIDATED = (*_UNNAMED, "Content-Encoding")


def _status(status: int) -> Behaviour:
    return Answer(status=status, body=b"no", headers={"Content-Type": "text/plain"}, without=_UNVALIDATED)


def _halfway(exchange: Exchange) -> int:
    return exchange.polite.body.size // 2


def _stalls(exchange: Exchange) -> None:
    """Half of it, and silence until the other side has had enough of it."""
    exchange.head(exchange.polite)
    for each in exchange.polite.body.read(0, _halfway(exchange)):
        exchange.body(each)
    exchange.pause(2 * IDLE)
    exchange.ending = "close"


def _trickles(exchange: Exchange) -> None:
    exchange.head(exchange.polite)
    for _ in range(20 * int(2 * IDLE)):
        exchange.body(next(exchange.polite.body.read(exchange.seen.sent, exchange.seen.sent + 1)))
        exchange.pause(0.05)
    exchange.ending = "close"


def _silent(exchange: Exchange) -> None:
    exchange.pause(FIRST_BYTE + 2)
    exchange.ending = "close"


_ANY: Mapping[str, Behaviour] = {
    "500": _status(500),
    "503": busy(503),
    "closed": hang_up,
    "reset": reset_at_once,
    "cut": lambda exchange: cut(_halfway(exchange))(exchange),
    "cut, chunked": lambda exchange: Answer(framing="chunked", stop_after=_halfway(exchange))(exchange),
    "reset halfway": lambda exchange: cut(_halfway(exchange), "reset")(exchange),
    "stalled": _stalls,
    "trickling": _trickles,
    "slow": Answer(delay=SLOW),
    "silent": _silent,
    "two lengths": Answer(extra=(("Content-Length", "5"),)),
    "2,000 headers": Answer(extra=tuple((f"X-{number}", "x") for number in range(2000))),
    "an unasked 304": lambda exchange: Answer(status=304)(exchange),
    "an unasked 206": lambda exchange: Answer(
        status=206, extra=(("Content-Range", f"bytes 0-{exchange.polite.body.size - 1}/{exchange.polite.body.size}"),)
    )(exchange),
}
_INDEX: Mapping[str, Behaviour] = {
    **_ANY,
    "429": busy(429, 1),
    "401": _status(401),
    "403": _status(403),
    "404": _status(404),
    "more than declared": lambda exchange: Answer(declared=_halfway(exchange))(exchange),
    "a circle": lambda exchange: redirect(exchange.seen.target)(exchange),
    "elsewhere": redirect("http://10.0.0.1/"),
}
_TEXT: Mapping[str, Behaviour] = {
    **_INDEX,
    "captive portal": Answer(body=_LOGIN, headers=_HTML, without=_UNVALIDATED),
    "unparsable": Answer(body=b"{", without=_UNVALIDATED),
    "no gzip": Answer(body=b"{}", headers={"Content-Encoding": "gzip"}, without=_UNNAMED),
}
FAULTS: Mapping[str, Mapping[str, Behaviour]] = {
    "page": {
        **_TEXT,
        "wrong project": Answer(
            body=b'{"meta": {"api-version": "1.1"}, "name": "other", "files": []}', without=_UNVALIDATED
        ),
    },
    "list": _TEXT,
    "json": _TEXT,
    "file": {
        **_INDEX,
        "cut, no length": lambda exchange: Answer(framing="close", stop_after=_halfway(exchange))(exchange),
        "a flipped byte": lambda exchange: Answer(corrupt=_halfway(exchange))(exchange),
    },
    # Of a mount these are answers like any other: passed on, and kept for a moment.
    "mount": {
        **_ANY,
        "429": busy(429, 1),
        **{
            str(status): Answer(status=status, body=b"no", headers={"Cache-Control": "max-age=2"}, without=_TAGS)
            for status in (401, 403, 404, 410)
        },
    },
}
WHATEVER = frozenset({"500", "503", "429", "401", "403", "404", "410", "closed", "reset", "slow", "silent"})
"""Faults that need no body to strike, and may meet what would be a 304, or a part."""


def kind_of(path: str) -> str:
    """What is asked for, in the words of FAULTS."""
    kinds = {"/packages/": "file", "/tree/": "mount", "/pypi/": "json"}
    found = next((kind for prefix, kind in kinds.items() if path.startswith(prefix)), None)
    return found or ("list" if path == "/simple/" else "page")


class Faults:
    """A behaviour: polite, but for one of a hundred requests with each of the faults of its kind. ``struck`` counts
    them. Threads of many connections call it."""

    def __init__(self, day: Day) -> None:
        self.on = False
        self.struck: Counter[str] = Counter()
        self._day = day
        self._ahead: dict[str, list[str | None]] = {kind: [] for kind in FAULTS}
        self._missed: dict[str, float] = {}
        self._good: dict[str, float] = {}
        self._chance = random.Random(17)
        self._lock = threading.Lock()

    def __call__(self, exchange: Exchange) -> None:
        """Answer in one way or the other."""
        self._next(exchange)(exchange)

    def _next(self, exchange: Exchange) -> Behaviour:
        kind = kind_of(exchange.seen.path)
        plain = exchange.polite.status == 200 and exchange.polite.body.size > 1 and exchange.seen.method == "GET"
        if not self.on or exchange.seen.method == "POST" or exchange.polite.status == 404:
            return polite
        with self._lock:
            ahead = self._ahead[kind]
            if not ahead:
                faults = [*FAULTS[kind], *(("older",) if kind == "page" else ())]
                ahead += [*faults, *[None] * (SLOTS - len(faults))]
                self._chance.shuffle(ahead)
            chosen, path = ahead.pop(), exchange.seen.path
            if chosen is None:
                self._good[path] = time.time()
                return polite
            # A page that is missing twice in a row is missing, and so is one that nobody has seen for hours.
            missed = time.monotonic() - self._missed.get(path, -APART) < APART
            unseen = kind not in ("file", "mount") and time.time() - self._good.get(path, 0.0) > LATELY
            if (chosen == "404" and (missed or unseen)) or (chosen not in WHATEVER and not plain):
                ahead.insert(self._chance.randrange(len(ahead) + 1), chosen)
                return polite
            if chosen == "404":
                self._missed[path] = time.monotonic()
            self.struck[f"{kind}: {chosen}"] += 1
        return self._older if chosen == "older" else FAULTS[kind][chosen]

    def _older(self, exchange: Exchange) -> None:
        """The page as it was a while ago, as some part of a content delivery network may still have it."""
        project = int(exchange.seen.path.strip("/").rpartition("-")[2])
        exchange.answer(self._day.before(project).reply(exchange.seen))


def main(clock: str, projects: str, directory: str) -> int:
    """Until standard input ends."""
    follow(Path(clock))
    day = Day.begun(int(projects))
    faults, published = Faults(day), 0
    with Upstream(index=day) as upstream, Elsewhere(Path(directory)) as elsewhere:
        upstream.default = faults
        place = {"url": upstream.url, "tree": f"{upstream.origin}/tree/", "files": upstream.files_url}
        print(json.dumps(place | elsewhere.place), flush=True)
        for line in sys.stdin:
            match line.strip():
                case "publish":
                    # 7 is prime to the number of projects, so that all have their turn.
                    day.publish(7 * published % int(projects))
                    published += 1
                    upstream.forget()
                case "faults" | "peace" as word:
                    faults.on = word == "faults"
                case "away":
                    upstream.stop()
                case "back":
                    upstream.start()
                case "tell":
                    there = {f"elsewhere: {trouble}": count for trouble, count in elsewhere.struck().items() if count}
                    print(json.dumps(faults.struck | there), flush=True)
                case what:
                    elsewhere.become(what)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
