"""What a disk may hold after the power failed at any moment of what was recorded.

On the disk is what was synced. Of every other change each may have come there or not, in any order: a write, part of it
by blocks of 512 bytes, the new length of a file without what was written there, a name, the absence of one. A rename
comes as a whole. This is less than journaling filesystems promise, and all that POSIX does.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.promises.recorded import Change, Names, Recording, Resize, Sync, Write

Fate = Literal["kept", "lost", "names kept", "bytes kept", "some kept"]
FATES: tuple[Fate, ...] = ("some kept", "lost", "names kept", "bytes kept", "kept")
BLOCK = 512


@dataclass(slots=True)
class Disk:
    """What is on it: names by directory, contents by file."""

    names: dict[int, dict[str, int]]
    contents: dict[int, bytes]

    def copy(self) -> Disk:
        """Another one that changes on its own."""
        return Disk({each: dict(names) for each, names in self.names.items()}, dict(self.contents))

    def apply(self, change: Change) -> None:
        """Do what was done. What it was done to may have been lost."""
        match change:
            case Write(node, offset, data):
                old = self.contents.get(node, b"")
                self.contents[node] = old[:offset].ljust(offset, b"\0") + data + old[offset + len(data) :]
            case Resize(node, size):
                self.contents[node] = self.contents.get(node, b"")[:size].ljust(size, b"\0")
            case Names(changes):
                for directory, name, named in changes:
                    names = self.names.setdefault(directory, {})
                    if named is None:
                        names.pop(name, None)
                    else:
                        names[name] = named

    def tree(self, directories: set[int], top: int = 0, path: str = "") -> Iterator[tuple[str, bytes | None]]:
        """Paths of all that can be found, and their bytes; None for directories, which come before what is in them."""
        for name, node in sorted(self.names.get(top, {}).items()):
            if node in directories:
                yield f"{path}{name}", None
                yield from self.tree(directories, node, f"{path}{name}/")
            else:
                yield f"{path}{name}", self.contents.get(node, b"")


@dataclass(frozen=True, slots=True)
class State:
    """What may be found after a power loss; ``when`` says how it came about."""

    when: str
    tree: tuple[tuple[str, bytes | None], ...]

    def write(self, directory: Path) -> None:
        """Make it so, in a directory that is there and empty."""
        for path, data in self.tree:
            if data is None:
                (directory / path).mkdir(mode=0o700)
            else:
                (directory / path).write_bytes(data)


def everything(recording: Recording) -> State:
    """What there is once all has been done."""
    disk = Disk({0: {}}, {})
    for event in recording.events:
        if not isinstance(event, Sync):
            disk.apply(event)
    return State("the end", tuple(disk.tree(set(recording.directories))))


def states(
    recording: Recording, fates: Callable[[int], Sequence[Fate]], *, ignored: Container[int] = ()
) -> Iterator[State]:
    """After each change, one for each of its ``fates`` of what was not synced; each state once. Of what is ``ignored``
    the disk says that it has synced it, and has not."""
    durable = Disk({0: {}}, {})
    pending: list[tuple[int, Change]] = []
    seen, directories, number = set[int](), set(recording.directories), 0
    for event in recording.events:
        if isinstance(event, Sync):
            if event.node not in ignored:
                pending = list(_synced(durable, pending, event))
            continue
        pending.append((number, event))
        number += 1
        for fate in fates(number):
            disk = durable.copy()
            for change in _survivors([each for _, each in pending], fate, random.Random(number)):
                disk.apply(change)
            tree = tuple(disk.tree(directories))
            if hash(tree) not in seen:
                seen.add(hash(tree))
                yield State(f"change {number} of {recording.changes}, what was not synced: {fate}", tree)


def _synced(durable: Disk, pending: Sequence[tuple[int, Change]], sync: Sync) -> Iterator[tuple[int, Change]]:
    for number, change in pending:
        if number < sync.upto and sync.node in _nodes(change):
            durable.apply(change)
        else:
            yield number, change


def _nodes(change: Change) -> set[int]:
    return {each[0] for each in change.changes} if isinstance(change, Names) else {change.node}


def _survivors(pending: Sequence[Change], fate: Fate, chance: random.Random) -> Iterator[Change]:
    for change in pending:
        if fate == "kept" or fate == ("names kept" if isinstance(change, Names) else "bytes kept"):
            yield change
        elif fate == "some kept" and chance.random() < 0.5:
            yield from _torn(change, chance) if isinstance(change, Write) else (change,)


def _torn(write: Write, chance: random.Random) -> Iterator[Write]:
    """The whole, or the length that it brings and as much as nothing of its blocks."""
    whole = chance.random() < 1 / 3
    blocks = chance.randrange(len(write.data) // BLOCK + 1)
    yield Write(write.node, write.offset + len(write.data), b"")
    yield write if whole else Write(write.node, write.offset, write.data[: blocks * BLOCK])
