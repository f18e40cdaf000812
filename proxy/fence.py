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

Nor is a page found any more from the moment its removal begins: it may take seconds to come to that row, and who asked
in between would be given an older page than somebody who was just given a new one, which could not be kept. A file is
the same file until it is gone.

What an unsafe method changed goes in the same way (RFC 9111 §4.4), one URL of a mount at a time. Of these there may be
many, so they have a memory of their own, which is looked into by that URL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from proxy.core.mounted import rest_of, tag_of_mount
from proxy.core.patterns import Kind, Selection, kind_of
from proxy.core.urls import METADATA_SUFFIX, file_name
from proxy.directory import RoomName
from proxy.errors import Forgotten
from proxy.room import Room

T = TypeVar("T")

Named = tuple[Kind, str, str, str | None]
"""What ``Selection.covers`` is asked about: kind, index, project, and the file's name or None; of a mount its
``rest``, which makes it one URL."""

_REMEMBERED = 1000
_REMEMBERED_URLS = 10_000


class Fence:
    """The removals of late; ``raising`` is called when one begins. ``mark``, ``raised`` and ``invalidating`` belong to
    the event loop, ``hides`` may be asked from any thread: a tuple that it reads is replaced as a whole, and what is
    forgotten is doubted first."""

    def __init__(self) -> None:
        self.raising: Callable[[], None] = lambda: None
        self._last = 0
        self._under_way: set[int] = set()
        # Of what was forgotten, up to those numbers, nothing is known, so it counts as if it covered everything.
        self._past: tuple[tuple[int, Selection], ...] = ()
        self._doubted = 0
        # By their hashes: two URLs that share one are invalidated together, which harms nobody.
        self._urls: dict[int, int] = {}
        self._urls_doubted = 0

    def mark(self) -> int:
        """Now, counted in removals that have ended."""
        return min(self._under_way, default=self._last + 1) - 1

    @contextmanager
    def raised(self, selection: Selection) -> Iterator[None]:
        """Around a removal, from before its first look at the rows until its last row is gone."""
        with self._numbered() as number:
            past = (*self._past, (number, selection))
            if len(past) > _REMEMBERED:
                self._doubted = past[-_REMEMBERED - 1][0]
            self._past = past[-_REMEMBERED:]
            self.raising()
            yield

    @contextmanager
    def invalidating(self, mount: str, rest: str) -> Iterator[None]:
        """The same around dropping one URL of a mount."""
        with self._numbered() as number:
            url = hash((mount, rest))
            self._urls.pop(url, None)
            self._urls[url] = number
            if len(self._urls) > _REMEMBERED_URLS:
                oldest = next(iter(self._urls))
                self._urls_doubted = self._urls[oldest]
                del self._urls[oldest]
            yield

    @contextmanager
    def _numbered(self) -> Iterator[int]:
        self._last = number = self._last + 1
        self._under_way.add(number)
        try:
            yield number
        finally:
            self._under_way.discard(number)

    def hides(self, since: int, kind: Kind, index: str, project: str, filename: str | None) -> bool:
        """Whether such a thing was removed after that mark, or may have been."""
        if kind == "mount" and since < (self._urls.get(hash((index, filename))) or self._urls_doubted):
            return True
        past = self._past
        if not past or since >= past[-1][0]:
            return False
        late = (each for number, each in past if number > since)
        return since < self._doubted or any(each.covers(kind, index, project, filename) for each in late)

    def removing(self, room: RoomName, key: str) -> bool:
        """Whether a removal that covers such a row goes on now. Of files it is not asked: there it says no."""
        if not self._under_way or room == "wheels":
            return False
        named = page_named(key) if room == "responses" else name_of(room, key, tag_of_mount(page_named(key)[1]), "")
        return any(each.covers(*named) for number, each in self._past if number in self._under_way)

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
    _, index, project, *_ = (*key.split("|"), "", "")
    return "response", index, project, None


def name_of(room: RoomName, key: str, tag: str, filename: str) -> Named:
    """What a row of that room is called; ``filename`` is the path, or the last part of the path, of its body, "" for
    a row without one. Of a response only core metadata has a name: that of its file with ``.metadata`` behind."""
    index, _, project = tag.partition("/")
    if room == "mounts":
        return "mount", index, project, rest_of(key)
    if room == "wheels":
        name = filename.rpartition("/")[2]
        return kind_of(name), index, project, name
    match key.split("|"):
        case ["metadata", _, location, *_]:
            return "response", index, project, file_name(location) + METADATA_SUFFIX
        case _:
            return "response", index, project, None
