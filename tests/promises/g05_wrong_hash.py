"""G5: an upstream whose bytes are not those that its page promises, in every way that leaves them well framed."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.harness.behaviours import Answer, Behaviour, cut, polite
from tests.harness.exchange import Framing
from tests.harness.fetch import Fetched, fetch
from tests.harness.packages import Distribution, wheel
from tests.harness.upstream import Upstream
from tests.harness.waiting import eventually
from tests.harness.world import world
from tests.promises.promise import Measured, Promise, Size

PROMISE = Promise("G5", "wrong hash", "200 cases: 0 complete bad bodies reach a client, 0 stored")
# Below and above the 64 KiB that are held back.
PADDINGS = (1_000, 50_000, 70_000, 300_000)
FRAMINGS: tuple[Framing, ...] = ("length", "chunked", "close")
AT_ONCE = 8
CASES = {"ci": 96, "long": 1_008}
Wrong = Callable[[Distribution, bytes, random.Random], bytes]


def _flipped(_: Distribution, right: bytes, chance: random.Random) -> bytes:
    at = chance.choice((0, len(right) - 1, chance.randrange(len(right))))
    return right[:at] + bytes([right[at] ^ (1 << chance.randrange(8))]) + right[at + 1 :]


def _of_another_version(made: Distribution, right: bytes, _: random.Random) -> bytes:
    return wheel(made.project, "2.0", padding=len(right)).data[: len(right)].ljust(len(right), b"\0")


def _swapped(_: Distribution, right: bytes, chance: random.Random) -> bytes:
    half = chance.randrange(1, len(right))
    return right[half:] + right[:half]


def _zeroed(_: Distribution, right: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(right))
    return right[:start].ljust(len(right), b"\0") if right[start:].strip(b"\0") else bytes(len(right))


def _shorter(_: Distribution, right: bytes, chance: random.Random) -> bytes:
    return right[: chance.choice((0, 1, len(right) - 1, chance.randrange(len(right))))]


def _longer(_: Distribution, right: bytes, chance: random.Random) -> bytes:
    return right + chance.randbytes(chance.choice((1, 1_000, 100_000)))


def _coded(_: Distribution, right: bytes, __: random.Random) -> bytes:
    return gzip.compress(right, mtime=0)


def _portal(*_: object) -> bytes:
    return b"<!DOCTYPE html><html><body>Please log in</body></html>"


WRONG: tuple[Wrong, ...] = (
    _flipped, _of_another_version, _swapped, _zeroed, _shorter, _longer, _coded, _portal,
)  # fmt: skip
# All of it, a second part of which only the rest is wrong, or what the page lists of the file's own metadata.
WAYS = ("whole", "rest", "metadata")
ASKED: tuple[dict[str, str], ...] = ({}, {}, {"Range": "bytes=0-"}, {"Range": "bytes=-500"})
ONLY_KEPT = {"Cache-Control": "only-if-cached"}


@dataclass(frozen=True, slots=True)
class Case:
    """``path`` is what the proxy is asked for with ``headers``, ``there`` what ``upstream`` is: it does as in
    ``faults`` first, and is well then. ``name`` says which case it is."""

    name: str
    upstream: Upstream
    path: str
    there: str
    headers: Mapping[str, str]
    right: bytes
    faults: tuple[Behaviour, ...]

    def arm(self) -> None:
        """From here on the upstream is ill."""
        self.upstream.script(self.there, *self.faults, polite)

    def bad(self, got: Fetched) -> bool:
        """Whether a client takes that for complete, and it is not what it should have got."""
        part = self.right[-500:] if self.headers.get("Range") == "bytes=-500" else self.right
        return got.status in (200, 206) and got.complete and got.body != part


def measure(size: Size, directory: Path) -> Measured:
    """Each case is asked for once while the upstream is ill, and once when it is well again."""
    # JSON that gives hash and size, and HTML that gives the hash alone.
    unsized = Upstream()
    unsized.index.html_only()
    settings = {"freshness": {"min_reload_interval": "0s"}}
    with world(directory, settings, {"unsized": unsized}) as here, ThreadPoolExecutor(AT_ONCE) as pool:
        cases = list(_cases(CASES[size], here.upstream, unsized))
        for case in cases:
            _shown(case)
        here.upstream.forget()
        unsized.forget()
        answers = list(pool.map(lambda case: here.get(case.path, case.headers), cases))
        bad = [case.name for case, got in zip(cases, answers, strict=True) if case.bad(got)]
        asked = {each.path for upstream in (here.upstream, unsized) for each in upstream.log}
        assert asked >= {case.there for case in cases}, "not every fault was met"
        eventually(lambda: here.proxy.spooled() == [], "no fetch is under way")
        answers = list(pool.map(lambda case: here.get(case.path, ONLY_KEPT), cases))
        # One that ended early was gone on with where it broke: what is kept of it is right.
        kept = [
            case.name for case, got in zip(cases, answers, strict=True) if got.status == 200 and got.body != case.right
        ]
        rights = {case.right for case in cases}
        kept += [each.name for each in here.proxy.stored() if each.read_bytes() not in rights]
        answers = list(pool.map(lambda case: here.get(case.path), cases))
        well = sum((got.status, got.body) == (200, case.right) for case, got in zip(cases, answers, strict=True))
    figure = f"{len(cases)} cases: {len(bad)} complete bad bodies, {len(kept)} stored, {well} right afterwards"
    promised = (
        (f"bad bodies, for example {bad[:1]}", not bad),
        (f"stored, for example {kept[:1]}", not kept),
        (f"{len(cases) - well} are not right afterwards", well == len(cases)),
    )
    return Measured(figure, tuple(told for told, holds in promised if not holds))


def _cases(number: int, sized: Upstream, unsized: Upstream) -> Iterator[Case]:
    """Combinations in an order that gives all of each kind soon."""
    for each in range(number):
        chance = random.Random(each)
        upstream, index = ((sized, "test"), (unsized, "unsized"))[each // 3 % 2]
        made = wheel(f"wrong-{each}", padding=chance.choice(PADDINGS))
        upstream.index.add(made)
        way, wrong = WAYS[each % len(WAYS)], WRONG[each % len(WRONG)]
        suffix = ".metadata" if way == "metadata" else ""
        right = made.data if not suffix else made.metadata or b""
        framing = FRAMINGS[each % 5 % len(FRAMINGS)]
        faults: tuple[Behaviour, ...] = (_answer(wrong(made, right, chance), wrong, framing),)
        if way == "rest":
            half = chance.randrange(1, len(right) - 1)
            faults = cut(half), Answer(corrupt=chance.randrange(len(right) - half))
        yield Case(
            f"{each}: {way}, {wrong.__name__}, {framing}",
            upstream,
            f"/files/{index}/{upstream.location(made)}{suffix}",
            f"{upstream.path_of(made)}{suffix}",
            {} if suffix else ASKED[each // 7 % len(ASKED)],
            right,
            faults,
        )


def _answer(bad: bytes, wrong: Wrong, framing: Framing) -> Answer:
    labels = {_portal: {"Content-Type": "text/html"}, _coded: {"Content-Encoding": "gzip"}}
    return Answer(body=bad, headers=labels.get(wrong, {}), framing=framing)


def _shown(case: Case) -> None:
    """Who asks the upstream itself takes other bytes for complete; where they come in two parts, in both."""
    case.arm()
    url, got = f"{case.upstream.origin}{case.there}", list[bytes]()
    for _ in case.faults:
        headers = {"Range": f"bytes={len(b''.join(got))}-"} if got else {}
        answer = fetch(url, headers)
        assert answer.complete == (len(case.faults) == 1 or bool(got))
        got.append(answer.body)
    assert b"".join(got) != case.right
    case.arm()
