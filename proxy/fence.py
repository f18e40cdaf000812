"""What was removed on purpose stays removed: nothing comes back that was asked for before.

A body may be on its way for an hour; when an operator removes that file in the meantime, its row must not be
committed any more. Whoever will keep something takes a mark before he asks for it, or reads what he makes it of, and
the store's thread compares the two in the job that commits:

    loop:    mark   ask upstream ...  raised     scan        mark   ask upstream ...
    thread:                      commit     scan: sees the row, deletes it        commit: kept
    thread:                                      scan   commit: refused

A commit before the fence is raised is one before the scan, for both run on one thread, one after the other: the scan
sees the row. A commit after it finds the fence. What asks while the scan goes on may have read what is deleted a
moment later, so its mark is one from before that removal:

    loop:    raised     mark   read a head ... 304     write that head
    thread:                                       scan                 refused, or: a head without its body
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from proxy.core.patterns import Kind, Selection, kind_of
from proxy.core.urls import METADATA_SUFFIX, file_name
from proxy.directory import RoomName
from proxy.errors import Forgotten
from proxy.room import Room

T = TypeVar("T")

Named = tuple[Kind, str, str, str | None]
"""What ``Selection.covers`` is asked about: kind, index, project, and the file's name or None."""

_REMEMBERED = 1000


class Fence:
    """The removals of late. ``mark`` and ``raised`` belong to the event loop, ``hides`` may be asked from any thread:
    what it reads is one tuple, replaced as a whole."""

    def __init__(self) -> None:
        self._last = 0
        self._under_way: set[int] = set()
        # Numbered without a gap. Of what was forgotten nothing is known, so it counts as if it covered everything.
        self._past: tuple[tuple[int, Selection], ...] = ()

    def mark(self) -> int:
        """Now, counted in removals that have ended."""
        return min(self._under_way, default=self._last + 1) - 1

    @contextmanager
    def raised(self, selection: Selection) -> Iterator[None]:
        """Around a removal, from before its first look at the rows until its last row is gone."""
        self._last = number = self._last + 1
        self._under_way.add(number)
        self._past = (*self._past, (number, selection))[-_REMEMBERED:]
        try:
            yield
        finally:
            self._under_way.discard(number)

    def hides(self, since: int, kind: Kind, index: str, project: str, filename: str | None) -> bool:
        """Whether such a thing was removed after that mark, or may have been."""
        past = self._past
        if not past or since >= past[-1][0]:
            return False
        skipped = since + 1 - past[0][0]
        return skipped < 0 or any(each.covers(kind, index, project, filename) for _, each in past[skipped:])

    def check(self, since: int | None, named: Named) -> None:
        """Raise Forgotten when that was removed after the mark; None is not checked."""
        if since is not None and self.hides(since, *named):
            raise Forgotten("it was removed while it was on its way")

    def checked(self, job: Callable[[Room], T], since: int | None, names: Sequence[Named]) -> Callable[[Room], T]:
        """The job, but first, on its thread, a check of all those names."""

        def run(room: Room) -> T:
            for named in names:
                self.check(since, named)
            return job(room)

        return run


def page_named(key: str) -> Named:
    """What a page, a listing, a document or a project list of that key is called."""
    _, index, *rest = key.split("|")
    return "response", index, rest[0] if rest else "", None


def name_of(room: RoomName, key: str, tag: str, filename: str) -> Named:
    """What a row of that room is called; ``filename`` is the path, or the last part of the path, of its body, "" for
    a row without one. Of a response only core metadata has a name: that of its file with ``.metadata`` behind."""
    index, _, project = tag.partition("/")
    if room == "wheels":
        name = filename.rpartition("/")[2]
        return kind_of(name), index, project, name
    match key.split("|"):
        case ["metadata", _, location, *_]:
            return "response", index, project, file_name(location) + METADATA_SUFFIX
        case _:
            return "response", index, project, None
