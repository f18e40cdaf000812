"""Scripts for caches: what clients ask of a few URLs, what the origin would answer, and how the time goes on.

Their words are few, so that they collide: the same validators, the same fields in Vary, lives of about as many seconds
as pass. A ``Script`` prints as the call that makes it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from email.utils import formatdate
from typing import Any, cast

from hypothesis import strategies as st

START = 1_790_000_000.0
MOUNT = "http://origin.example/base/"
URLS = ("a", "b")

Lines = tuple[tuple[str, str], ...]


class Brief:
    """Prints as the call that makes it, without what is as usual."""

    def __repr__(self) -> str:
        told = ((each.name, getattr(self, each.name), each.default) for each in fields(cast(Any, self)))
        return (
            f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value, usual in told if value != usual)})"
        )


@dataclass(frozen=True, repr=False)
class Says(Brief):
    """An answer of the origin: ``status`` None is none at all, 304 and 206 are a 200 to who did not ask for them. Date
    and Expires are seconds from when it arrives, or as they stand; ``after`` is how many seconds it takes."""

    status: int | None = 200
    control: tuple[str, ...] = ()
    date: int | str | None = 0
    expires: int | str | None = None
    others: Lines = ()
    after: float = 0.0

    def answered(self, *, conditional: bool, ranged: bool) -> int | None:
        """Its status, to a request with conditions, with a range, or without."""
        asked_for = {304: conditional, 206: ranged}
        return self.status if self.status is None or asked_for.get(self.status, True) else 200

    def lines(self, arrived: float) -> Lines:
        """Its header lines, when it arrives then; each directive is a line of its own."""
        made: list[tuple[str, str]] = [("Cache-Control", directive) for directive in self.control]
        for name, value in (("Date", self.date), ("Expires", self.expires)):
            if value is not None:
                made.append((name, value if isinstance(value, str) else formatdate(int(arrived) + value, usegmt=True)))
        return (*made, *self.others)


@dataclass(frozen=True, repr=False)
class Step(Brief):
    """A request after so many seconds, and the origin's answer to it; ``again`` is the one to a second question."""

    wait: float = 0.0
    method: str = "GET"
    url: str = "a"
    fields: Lines = ()
    says: Says = Says()
    again: Says = Says()


@dataclass(frozen=True, repr=False)
class Settings(Brief):
    """Of the mount."""

    default_ttl: int = 0
    stale_if_error: int = 0
    stale_while_revalidate: int = 0
    reload: str = "honour"


@dataclass(frozen=True, repr=False)
class Script(Brief):
    """What happens to one cache, from empty on."""

    settings: Settings = Settings()
    steps: tuple[Step, ...] = ()


def smallest(script: Script, fails: Callable[[Script], bool]) -> Script:
    """The least that still fails, as far as one thing at a time leads. (Hypothesis takes minutes for that.)"""
    while (less := next(filter(fails, _smaller(script)), None)) is not None:
        script = less
    return script


def _smaller(script: Script) -> Iterator[Script]:
    for number, step in enumerate(script.steps):
        yield replace(script, steps=script.steps[:number] + script.steps[number + 1 :])
        for less in _simpler(step):
            yield replace(script, steps=(*script.steps[:number], less, *script.steps[number + 1 :]))
    yield from (replace(script, settings=less) for less in _simpler(script.settings))


def _simpler(value: Any) -> Iterator[Any]:
    for each in fields(value):
        now = getattr(value, each.name)
        if now == each.default:
            continue
        yield replace(value, **{each.name: each.default})
        if isinstance(now, tuple):
            yield from (replace(value, **{each.name: now[:at] + now[at + 1 :]}) for at in range(len(now)))
        elif isinstance(now, Says):
            yield from (replace(value, **{each.name: less}) for less in _simpler(now))


OLD, NEW = formatdate(START - 1000, usegmt=True), formatdate(START - 50, usegmt=True)
AHEAD = formatdate(START + 20, usegmt=True)


RESPONSE_DIRECTIVES = [
    "max-age=5", "max-age=5", "max-age=30", "max-age=0", 'max-age="5"', "MAX-AGE=30", "max-age=x", "max-age=-1",
    "max-age", "s-maxage=5", "s-maxage=30", "s-maxage=", "public", "public", "private", 'private="x-thing"',
    "no-store", "No-Store", "no-cache", 'no-cache="x-thing, y"', "must-revalidate", "proxy-revalidate",
    "must-understand", "immutable", "stale-if-error=5", "stale-if-error=60", "stale-while-revalidate=5",
    "stale-while-revalidate=x", 'ext="no-store, max-age=0"', "max-age=99999999999",
]  # fmt: skip
REQUEST_DIRECTIVES = [
    "no-cache", "no-store", "max-age=0", "max-age=5", "max-age=x", "min-fresh=3", "min-fresh=x", "min-fresh=0",
    "max-stale", "max-stale=3", "max-stale=x", "only-if-cached", "max-stale=3, min-fresh=3", "max-age=9, max-stale=9",
    "no-transform", "MAX-AGE=3", 'max-age="3"', "only-if-cached, max-stale", "only-if-cached, no-cache",
    "only-if-cached, no-store", "max-age=3, max-age=5",
]  # fmt: skip
VALIDATORS: list[Lines] = [
    (), (), (("ETag", '"a"'),), (("ETag", '"a"'),), (("ETag", '"b"'),), (("ETag", 'W/"a"'),), (("ETag", 'W/"b"'),),
    (("ETag", "a"),), (("Last-Modified", OLD),), (("Last-Modified", NEW),), (("Last-Modified", "yesterday"),),
    (("ETag", '"a"'), ("Last-Modified", OLD)), (("ETag", '"a"'), ("Last-Modified", NEW)),
    (("ETag", '"b"'), ("Last-Modified", NEW)), (("ETag", 'W/"a"'), ("Last-Modified", OLD)),
]  # fmt: skip
VARY: list[Lines] = [
    (), (), (), (("Vary", "X-One"),), (("vary", "x-one"),), (("Vary", "X-Two"),), (("Vary", "X-Two, X-One"),),
    (("Vary", "X-One"), ("Vary", "X-Two")), (("Vary", "*"),), (("Vary", "X-One, *"),), (("Vary", ""),),
]  # fmt: skip
OTHERS: list[Lines] = [
    (), (), (), (("X-Thing", "1"),), (("X-Thing", "2"),), (("Connection", "X-Thing"), ("X-Thing", "3")),
    (("Set-Cookie", "a=b"),), (("Age", "3"),), (("Age", "30"),), (("Age", "3, 30"),), (("Age", "x"),), (("Age", "-3"),),
    (("Content-Type", "text/plain"),), (("Content-Type", "text/html"), ("Content-Length", "10")),
    (("Content-Length", "10"),), (("Content-Length", "11"),),
    (("X-PyPI-Last-Serial", "7"),), (("X-PyPI-Last-Serial", "5"),), (("Content-Range", "bytes 0-1/10"),),
    (("Content-Location", "b"),), (("Location", "/base/b"),), (("Location", "http://other.example/base/b"),),
    (("Content-Location", MOUNT + "a"), ("Location", "./b")),
]  # fmt: skip
CHOOSING: list[Lines] = [
    (), (), (("x-one", "1"),), (("x-one", "2"),), (("x-one", ""),), (("x-two", "1"),), (("x-one", "1"), ("x-two", "1")),
    (("x-one", "1, 2"),), (("x-one", "1,2"),),
]  # fmt: skip
ASKING: list[Lines] = [
    (), (), (), (), (), (("authorization", "Basic x"),), (("pragma", "no-cache"),), (("pragma", "x"),),
    (("if-none-match", '"a"'),), (("if-none-match", 'W/"b", "c"'),), (("if-none-match", "*"),),
    (("if-modified-since", NEW),), (("if-modified-since", OLD),), (("if-modified-since", AHEAD),),
    (("if-none-match", '"a"'), ("if-modified-since", OLD)),
    (("range", "bytes=0-1"),), (("range", "bytes=50-"),), (("range", "bytes=-2"),), (("range", "lines=1-"),),
    (("range", "bytes=1-"), ("if-range", '"a"')), (("range", "bytes=1-"), ("if-range", 'W/"a"')),
    (("range", "bytes=1-"), ("if-range", OLD)), (("authorization", "Basic x"), ("range", "bytes=0-1")),
]  # fmt: skip
STATUSES = (
    [200] * 6 + [304] * 6 + [None] * 8 + [503, 503, 503, 503, 500, 502, 504, 501, 404, 404, 410, 405, 301, 302, 307]
    + [308, 203, 204, 206, 206, 299, 400, 401, 403, 412, 416, 429, 431, 414, 599]
)  # fmt: skip
DATES = [*[0] * 6, -5, 5, -20, None, "yesterday"]
EXPIRES = [*[None] * 7, 5, 30, -1, "0", ""]
AFTER = [0.0, 0.0, 0.0, 2.0, 0.5]
WAITS = [0.0, 0.0, 1.0, 2.0, 3.0, 4.5, 5.0, 6.0, 9.0, 20.0, 31.0, -3.0]
METHODS = [*["GET"] * 12, "HEAD", "HEAD", "HEAD", "POST", "DELETE", "OPTIONS", "M-SEARCH"]
WISHES: list[Lines] = [*[()] * 16, *((("cache-control", each),) for each in REQUEST_DIRECTIVES)]
COUNTS = [0, 1, 1, 2, 2, 3]


class Chance:
    """Bytes that pick, one after the other. (Hypothesis would take ten times as long to draw each choice.)"""

    def __init__(self, chances: bytes) -> None:
        self.chances = iter(chances)

    def pick(self, choices: Sequence[Any]) -> Any:
        """One of them."""
        return choices[next(self.chances) % len(choices)]

    def some(self, choices: Sequence[Any], most: Sequence[int] = (1, 2, 3, 5)) -> list[Any]:
        """A few of them."""
        return [self.pick(choices) for _ in range(self.pick(most))]


class Dialect:
    """The few words of one script, so that they meet again and again."""

    def __init__(self, chance: Chance) -> None:
        some = chance.some
        self.statuses = [200, 200, 200, 304, 304, *some(STATUSES)]
        self.directives = ["max-age=5", *some(RESPONSE_DIRECTIVES)]
        self.dates, self.expires, self.after = some(DATES), some(EXPIRES), some(AFTER)
        self.validators, self.vary, self.others = some(VALIDATORS), [(), *some(VARY)], some(OTHERS)
        self.waits, self.methods = [0.0, 5.0, *some(WAITS)], [*["GET"] * 6, *some(METHODS)]
        self.wishes, self.choosing, self.asking = [(), *some(WISHES)], some(CHOOSING), [(), (), (), *some(ASKING)]

    def step(self, chance: Chance) -> Step:
        """One step in these words."""
        pick = chance.pick
        fields = (*pick(self.wishes), *pick(self.choosing), *pick(self.asking))
        url = pick(["a"] * 7 + ["b"])
        return Step(pick(self.waits), pick(self.methods), url, fields, self.says(chance), self.says(chance))

    def says(self, chance: Chance) -> Says:
        """One answer in these words."""
        pick = chance.pick
        control = tuple(pick(self.directives) for _ in range(pick(COUNTS)))
        lines = (*pick(self.validators), *pick(self.vary), *pick(self.others))
        return Says(pick(self.statuses), control, pick(self.dates), pick(self.expires), lines, pick(self.after))


def _script(settings: Settings, words: bytes, steps: Sequence[bytes]) -> Script:
    dialect = Dialect(Chance(words))
    return Script(settings, tuple(dialect.step(Chance(each)) for each in steps))


# As many bytes as can be picked with at most: 13 kinds of words of 5 each, and how many; and what a step picks.
SETTINGS = st.builds(
    Settings,
    default_ttl=st.sampled_from([0, 0, 5]),
    stale_if_error=st.sampled_from([0, 10, 60]),
    stale_while_revalidate=st.sampled_from([0, 5]),
    reload=st.sampled_from(["honour", "honour", "limited", "ignore"]),
)
SCRIPTS = st.builds(
    _script,
    SETTINGS,
    st.binary(min_size=78, max_size=78),
    st.lists(st.binary(min_size=28, max_size=28), min_size=3, max_size=10),
)
