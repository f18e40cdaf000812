"""A small filesystem of its own, for what happens when it is full: a tmpfs in a mount namespace."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

PATIENCE = 20.0
_MAKE = 'mount -t tmpfs -o "size=$1" none "$2" && echo ready && exec cat'


class SmallDisk:
    """A context manager. What is run with ``prefix`` before its command finds it at ``path``; from outside it is seen
    at ``seen`` (by file operations: SQLite would follow that link to the wrong place)."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        self._holder: subprocess.Popen[str] | None = None

    @staticmethod
    def missing() -> str | None:
        """What is not there to make it, if anything."""
        for program in ("unshare", "nsenter"):
            if shutil.which(program) is None:
                return f"{program} is missing"
        tried = subprocess.run(["unshare", "-Urm", "true"], capture_output=True, text=True, check=False)
        return None if tried.returncode == 0 else f"no namespaces: {tried.stderr.strip()}"

    def __enter__(self) -> Self:
        self.path.mkdir(parents=True, exist_ok=True)
        self._holder = subprocess.Popen(
            ["unshare", "-Urm", "sh", "-c", _MAKE, "sh", str(self.size), str(self.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "ready\n", "the filesystem was not made"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Its input ends, and so does it; the filesystem goes with the last process that sees it.
        self.holder.communicate(timeout=PATIENCE)

    @property
    def holder(self) -> subprocess.Popen[str]:
        """The process that keeps it there."""
        assert self._holder is not None
        return self._holder

    @property
    def seen(self) -> Path:
        """Where it is for a process outside."""
        return Path(f"/proc/{self.holder.pid}/root{self.path}")

    def prefix(self, directory: Path) -> tuple[str, ...]:
        """Goes before a command that is to run in that directory."""
        spaces = (f"--{name}=/proc/{self.holder.pid}/ns/{kind}" for name, kind in (("user", "user"), ("mount", "mnt")))
        return ("nsenter", *spaces, "--preserve-credentials", "--", "sh", "-c", 'cd "$0" && exec "$@"', str(directory))

    def free(self) -> int:
        """Bytes that may still be written."""
        disk = os.statvfs(self.seen)
        return disk.f_bavail * disk.f_frsize

    def taken(self, name: str = ".") -> int:
        """Bytes that a file, or all below a directory, takes of it."""
        top = self.seen / name
        return sum(path.lstat().st_blocks * 512 for path in (top, *top.rglob("*")))

    def fill(self, name: str = "other") -> None:
        """Somebody else writes a file, or goes on with it, until not a byte is left."""
        with open(self.seen / name, "ab", buffering=0) as file:
            while free := self.free():
                # Others may take or free some of it meanwhile.
                with contextlib.suppress(OSError):
                    file.write(bytes(free))

    def make_room(self, name: str = "other") -> None:
        """That file goes."""
        (self.seen / name).unlink()
