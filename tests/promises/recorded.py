"""What a process does to the files below a directory, read from strace's record of its system calls."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# Writing through memory is not seen: SQLite does so only to the index of a log, which it makes anew after a crash.
CALLS = (
    "open,openat,creat,close,dup,dup2,dup3,fcntl,lseek,write,pwrite64,writev,pwritev,pwritev2,truncate,ftruncate,"
    "fallocate,fsync,fdatasync,rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,mkdirat,rmdir,"
    "copy_file_range"
)
_LINE = re.compile(r"(\d+) +(.*)")
_CALL = re.compile(r"(\w+)\((.*)\) += (-?\d+|\?)")
_BEGUN = re.compile(r"(\w+)\((.*) <unfinished \.\.\.>")
_RESUMED = re.compile(r"<\.\.\. (\w+) resumed>(.*)")
_HERE = "AT_FDCWD"


def prefix(record: Path) -> tuple[str, ...]:
    """What is put before a command so that its calls, those of all its threads, are written there. It stays the
    process that was started (-D), so that it can be signalled."""
    return ("strace", "-D", "-f", "-qq", "-xx", "-s", "10000000", "-e", f"trace={CALLS}", "-o", str(record))


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes of a file from an offset on."""

    node: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Resize:
    """A file of another length: zeros, or less."""

    node: int
    size: int


@dataclass(frozen=True, slots=True)
class Names:
    """Names in directories, all in one step: each a directory, a name, and what that means now (None: nothing)."""

    changes: tuple[tuple[int, str, int | None], ...]


@dataclass(frozen=True, slots=True)
class Sync:
    """What was done to a file or a directory, up to ``upto`` changes since the beginning, is on the disk."""

    node: int
    upto: int


Change = Write | Resize | Names


@dataclass(slots=True)
class Recording:
    """Everything done below ``root``, in its order. Files and directories are numbered; the root is 0."""

    root: Path
    events: list[Change | Sync] = field(default_factory=list)
    directories: dict[int, dict[str, int]] = field(default_factory=lambda: {0: {}})
    sizes: dict[int, int] = field(default_factory=dict)
    changes: int = 0

    def read(self, record: Path) -> None:
        """Append what one process did from its start to its end."""
        process = _Process(self)
        for begun, call, words, result in _calls(record.read_text().splitlines(), lambda: self.changes):
            if result >= 0:
                process.does(call, words, result, begun)

    def happened(self, change: Change) -> None:
        """Append a change."""
        self.events.append(change)
        self.changes += 1
        match change:
            case Write(node, offset, data):
                self.sizes[node] = max(self.sizes[node], offset + len(data))
            case Resize(node, size):
                self.sizes[node] = size
            case Names(changes):
                for directory, name, named in changes:
                    if named is None:
                        del self.directories[directory][name]
                    else:
                        self.directories[directory][name] = named

    def new(self, *, directory: bool) -> int:
        """The number of a new file or directory."""
        node = 1 + len(self.sizes) + len(self.directories) - 1
        if directory:
            self.directories[node] = {}
        else:
            self.sizes[node] = 0
        return node

    def place(self, path: str) -> tuple[int, str] | None:
        """The directory and the name that a path means; None when it lies elsewhere, or its directory is none."""
        if path == str(self.root) or not path.startswith(f"{self.root}/"):
            return None
        *parents, name = path.removeprefix(f"{self.root}/").split("/")
        directory = 0
        for each in parents:
            if (found := self.directories[directory].get(each)) not in self.directories:
                return None
            directory = found
        return directory, name

    def node(self, path: str) -> int | None:
        """What has that path now."""
        if path == str(self.root):
            return 0
        place = self.place(path)
        return None if place is None else self.directories[place[0]].get(place[1])


@dataclass(slots=True)
class _Open:
    node: int
    path: str
    offset: int = 0


class _Process:
    """Descriptors of one process, which all of its threads share."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._open: dict[int, _Open] = {}

    def does(self, call: str, words: Sequence[str], result: int, begun: int) -> None:
        """One call that did not fail. Calls that were never seen to touch a file of ours are errors, not guesses."""
        match call:
            case "open" | "openat" | "creat":
                self._opens(call, words, result)
            case "close":
                self._open.pop(int(words[0]), None)
            case "dup" | "dup2" | "dup3" | "fcntl":
                if (call != "fcntl" or words[1].startswith("F_DUPFD")) and int(words[0]) in self._open:
                    self._open[result] = self._open[int(words[0])]
            case "rename" | "renameat" | "renameat2" | "link" | "linkat" | "unlink" | "unlinkat" | "rmdir":
                self._names(call, words)
            case "mkdir" | "mkdirat":
                if (place := self._recording.place(self._paths(words)[0])) is not None:
                    self._enter(place, self._recording.new(directory=True))
            case _ if words and words[0].lstrip("-").isdigit() and int(words[0]) in self._open:
                self._to_open(call, self._open[int(words[0])], words, result, begun)

    def _to_open(self, call: str, file: _Open, words: Sequence[str], result: int, begun: int) -> None:
        recording = self._recording
        match call:
            case "write":
                recording.happened(Write(file.node, file.offset, _bytes(words[1])[:result]))
                file.offset += result
            case "pwrite64":
                recording.happened(Write(file.node, int(words[3]), _bytes(words[1])[:result]))
            case "lseek":
                file.offset = result
            case "ftruncate":
                recording.happened(Resize(file.node, int(words[1])))
            case "fallocate":
                assert words[1] == "0", words
                recording.happened(Resize(file.node, max(recording.sizes[file.node], int(words[2]) + int(words[3]))))
            case "fsync" | "fdatasync":
                recording.events.append(Sync(file.node, begun))
            case _:
                raise AssertionError(f"{call} is not understood")

    def _opens(self, call: str, words: Sequence[str], result: int) -> None:
        path = self._paths(words)[0]
        flags = "O_CREAT|O_TRUNC" if call == "creat" else next(each for each in words if each.startswith("O_"))
        if "O_TMPFILE" in flags:
            return  # it has no name, and nobody finds it again
        recording = self._recording
        node = recording.node(path)
        if node is None:
            place = recording.place(path)
            if place is None or "O_CREAT" not in flags:
                return
            node = recording.new(directory=False)
            self._enter(place, node)
        elif "O_TRUNC" in flags and recording.sizes[node]:
            recording.happened(Resize(node, 0))
        assert "O_APPEND" not in flags, path
        self._open[result] = _Open(node, path)

    def _names(self, call: str, words: Sequence[str]) -> None:
        recording, paths = self._recording, self._paths(words)
        place = recording.place(paths[0])
        node = recording.node(paths[0])
        if call.startswith(("unlink", "rmdir")):
            if place is not None:
                recording.happened(Names(((*place, None),)))
            return
        target = recording.place(paths[1])
        assert (place is None) == (target is None), paths
        if place is None or target is None:
            return
        gone = ((*place, None),) if call.startswith("rename") else ()
        recording.happened(Names((*gone, (*target, node))))

    def _enter(self, place: tuple[int, str], node: int) -> None:
        self._recording.happened(Names(((*place, node),)))

    def _paths(self, words: Sequence[str]) -> list[str]:
        """Of the arguments, relative ones below the directory whose descriptor stands before them."""
        paths = list[str]()
        for number, word in enumerate(words):
            if word.startswith('"'):
                path = os.fsdecode(_bytes(word))
                before = words[number - 1] if number else _HERE
                if not path.startswith("/") and before.isdigit() and int(before) in self._open:
                    path = f"{self._open[int(before)].path}/{path}"
                paths.append(path)
        return paths


def _calls(lines: Iterable[str], now: object) -> Iterator[tuple[int, str, list[str], int]]:
    """Each call when it has ended: how many changes there were when it began, its name, its arguments, its result."""
    assert callable(now)
    begun: dict[str, tuple[int, str]] = {}
    for line in lines:
        if (found := _LINE.fullmatch(line)) is None:
            continue
        thread, text = found.groups()
        if first := _BEGUN.match(text):
            begun[thread] = now(), f"{first[1]}({first[2]}"
            continue
        since = now()
        if (rest := _RESUMED.match(text)) and thread in begun:
            since, start = begun.pop(thread)
            text = start + rest[2]
        if (call := _CALL.match(text)) and call[3] != "?":
            yield since, call[1], [word.strip() for word in call[2].split(", ")], int(call[3])


def _bytes(word: str) -> bytes:
    assert word.endswith('"'), "a string was cut"
    return bytes.fromhex(word.strip('"').replace("\\x", ""))
