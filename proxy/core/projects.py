"""The project list (PEP 691), read piece by piece as events: PyPI's has 700,000 entries in 40 MB.

Bytes are looked at in steps of 64 KiB: no call into C holds the interpreter for longer than a few milliseconds,
and what comes out does not depend on how the input was cut. Nothing is kept of what was handed on. Lists in HTML
are read in ``anchors``, and ``projectwriters`` writes both.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from proxy.core.hypertext import API_VERSION
from proxy.errors import MalformedPage

STEP = 64 * 1024
VALUE_LIMIT = 64 * 1024
"""Bytes of one entry, of one other member, or of one tag of HTML; PyPI's entries have about fifty."""
DEPTH_LIMIT = 32
_MEMBERS = 64

# RFC 8259. Whatever these let through, orjson reads it once more: here only the borders are found. All is possessive.
_SPACE = rb"[ \t\n\r]*+"
_STRING = rb'"(?:[^"\\]++|\\.)*+"'
_FLAT = rb'\{[^"{}\[\]]*+(?:' + _STRING + rb'[^"{}\[\]]*+)*+\}'
_SPACES = re.compile(_SPACE)
# Entries that hold no list and no object, each with the comma behind it: all of PyPI's but the last.
_RUN = re.compile(rb"(?:" + _SPACE + _FLAT + _SPACE + rb",)++", re.DOTALL)
_KEY = re.compile(rb"(" + _STRING + rb")" + _SPACE + rb":" + _SPACE + rb"(?=.)", re.DOTALL)
_BORDER = re.compile(rb'"(?:[^"\\]++|\\.)*+(?P<closed>"?)|(?P<open>[{\[])|[}\]]', re.DOTALL)
_SCALAR = re.compile(rb"[^ \t\n\r,\]}]*+(?=.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Member:
    """A member of the list beside its projects: ``meta``, or one we do not know."""

    name: str
    value: Any


@dataclass(frozen=True, slots=True)
class Entries:
    """Some of the projects, in order; the first of these events may be empty and says that they begin."""

    projects: list[dict[str, Any]]


Event = Member | Entries


class Events(Protocol):
    """A list of any form, as events: each member once, the projects in one row. Raises MalformedPage when it is
    none, is cut short, or has a part beyond the limits. ``ended``: the text itself has shown where it ends."""

    ended: bool

    def feed(self, data: bytes) -> Iterator[Event]:
        """What is complete by now."""

    def finish(self) -> Iterator[Event]:
        """The rest, at the end of the input."""


class Stepwise(ABC):
    """Cuts what comes into steps of one size, each with what the step before left over."""

    def __init__(self) -> None:
        self.ended = False
        self._waiting = b""
        self._left = b""

    def feed(self, data: bytes) -> Iterator[Event]:
        """Take the next bytes of the list."""
        data = self._waiting + data
        steps = len(data) // STEP * STEP
        self._waiting = data[steps:]
        for start in range(0, steps, STEP):
            yield from self._step(data[start : start + STEP])

    def finish(self) -> Iterator[Event]:
        """There is no more. Raises MalformedPage when that is not the end of a list."""
        yield from self._step(self._waiting)
        self._waiting = b""
        yield from self.end(self._left)

    def _step(self, data: bytes) -> Iterator[Event]:
        data = self._left + data
        at = yield from self.events(data)
        self._left = data[at:]
        if len(self._left) > VALUE_LIMIT:
            raise MalformedPage("the project list has a part that is too large")

    @abstractmethod
    def events(self, data: bytes) -> Generator[Event, None, int]:
        """What is complete in ``data``; returns how many bytes of it that takes."""

    @abstractmethod
    def end(self, left: bytes) -> Iterator[Event]:
        """What the bytes mean that are left at the end."""


# Where a reader of JSON stands, and what it returns: the event and the offset behind it, or None to wait for more.
Found = tuple[Event | None, int] | None


class JsonEvents(Stepwise):
    """Reads PEP 691's JSON. Entries may have any keys beside their name, and members may come in any order."""

    def __init__(self) -> None:
        super().__init__()
        self._names: set[str] = set()
        self._first = True
        self._next: Callable[[bytes, int], Found] = self._opening

    def events(self, data: bytes) -> Generator[Event, None, int]:
        """See ``Stepwise``."""
        at = 0
        while True:
            at = _skip(data, at)
            found = self._next(data, at) if at < len(data) else None
            if found is None:
                return at
            event, at = found
            if event is not None:
                yield event

    def end(self, left: bytes) -> Iterator[Event]:
        """See ``Stepwise``."""
        if self._next != self._nothing or left:
            raise MalformedPage("the project list is cut short, or no JSON")
        if not {"meta", "projects"} <= self._names:
            raise MalformedPage("the project list lacks what one must have")
        self.ended = True
        return iter(())

    # -- one place of the grammar each; ``at`` is at a byte that is no space ----------------------------------

    def _opening(self, data: bytes, at: int) -> Found:
        _expect(data, at, b"{")
        self._next = self._member
        return None, at + 1

    def _member(self, data: bytes, at: int) -> Found:
        if self._first and data[at] in b"}":
            self._next = self._nothing
            return None, at + 1
        _expect(data, at, b'"')
        if (key := _KEY.match(data, at)) is None:
            return None
        name = _value(key[1])
        if name in self._names or len(self._names) == _MEMBERS:
            raise MalformedPage("the project list says something twice, or too much")
        if name == "projects":
            _expect(data, key.end(), b"[")
            self._names.add(name)
            self._first, self._next = True, self._entries
            return Entries([]), key.end() + 1
        end = _end_of_value(data, key.end())
        if end is None:
            return None
        value = _value(data[key.end() : end])
        if name == "meta":
            _check_meta(value)
        self._names.add(name)
        self._next = self._behind_member
        return Member(name, value), end

    def _behind_member(self, data: bytes, at: int) -> Found:
        _expect(data, at, b",}")
        self._first, self._next = False, self._member if data[at] in b"," else self._nothing
        return None, at + 1

    def _entries(self, data: bytes, at: int) -> Found:
        if self._first and data[at] in b"]":
            self._next = self._behind_member
            return None, at + 1
        if (run := _RUN.match(data, at)) is not None:
            self._first = False
            return _entries(data[at : run.end() - 1]), run.end()
        _expect(data, at, b"{")
        end = _end_of_value(data, at)
        if end is None:
            return None
        self._next = self._behind_entry
        return _entries(data[at:end]), end

    def _behind_entry(self, data: bytes, at: int) -> Found:
        _expect(data, at, b",]")
        self._first, self._next = False, self._entries if data[at] in b"," else self._behind_member
        return None, at + 1

    def _nothing(self, data: bytes, at: int) -> Found:
        raise MalformedPage("the project list goes on behind its end")


def _skip(data: bytes, at: int) -> int:
    space = _SPACES.match(data, at)
    assert space is not None
    return space.end()


def _expect(data: bytes, at: int, these: bytes) -> None:
    if data[at] not in these:
        raise MalformedPage("the project list is not JSON")


def _value(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise MalformedPage("the project list is not JSON") from error


def _entries(data: bytes) -> Entries:
    """Of one object, or of several with commas between them."""
    projects = _value(b"[%b]" % data)
    # Between brackets that begin with a brace nothing but objects can stand.
    if not {str}.issuperset([type(project.get("name")) for project in projects]):
        raise MalformedPage("the project list has an entry without a name")
    return Entries(projects)


def _check_meta(meta: Any) -> None:
    match meta:
        case {"api-version": str(version)} if API_VERSION.fullmatch(version):
            return
        case _:
            raise MalformedPage("the project list has an API version we cannot read")


def _end_of_value(data: bytes, at: int) -> int | None:
    """Where the JSON value ends that begins there; None when that cannot be seen yet."""
    if data[at] not in b'{["':
        scalar = _SCALAR.match(data, at)
        return None if scalar is None else scalar.end()
    depth = 0
    for border in _BORDER.finditer(data, at):
        if border["closed"] == b"":
            return None
        if border["open"] is not None:
            depth += 1
            if depth > DEPTH_LIMIT:
                raise MalformedPage("the project list is nested too deeply")
        elif border["closed"] is None:
            depth -= 1
        if depth == 0:
            return border.end()
    return None
