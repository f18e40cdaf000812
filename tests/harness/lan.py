"""A network of one machine: namespaces with addresses of their own, and with the names that a test gives them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

NAME = "proxy.example.com"
# Set aside for measurements (RFC 2544), so that it is nobody's.
ADDRESS = "198.18.0.1"
PATIENCE = 20.0
_SPACES = {"user": "user", "net": "net", "mount": "mnt"}

_MAKE = """
set -e
ip link set lo up
cd "$1" && shift
for file in *; do mount --bind "$file" "/etc/$file"; done
for address; do ip address add "$address" dev lo; done
echo ready
exec cat
"""


class Lan:
    """A context manager. What is run with its ``prefix`` before the command is in there: it reaches nothing else, and
    may listen on any port. It sees this machine's files, but for /etc/hosts and those of ``etc`` (names below /etc,
    which must be there, and what they hold). ``addresses`` ("10.9.8.7/32") are its own besides loopback."""

    def __init__(
        self, directory: Path, *, addresses: Sequence[str] = (f"{ADDRESS}/15",), etc: Mapping[str, str] | None = None
    ) -> None:
        self._etc = directory / "etc"
        self._addresses = addresses
        self._files = {"hosts": f"127.0.0.1 localhost\n{ADDRESS} {NAME}\n", **(etc or {})}
        self._holder: subprocess.Popen[str] | None = None

    @staticmethod
    def missing() -> str | None:
        """What is not there to make it, if anything."""
        for program in ("ip", "unshare", "nsenter"):
            if shutil.which(program) is None:
                return f"{program} is missing"
        tried = subprocess.run(["unshare", "-Urnm", "true"], capture_output=True, text=True, check=False)
        return None if tried.returncode == 0 else f"no namespaces: {tried.stderr.strip()}"

    def __enter__(self) -> Self:
        self._etc.mkdir()
        for name, text in self._files.items():
            (self._etc / name).write_text(text)
        self._holder = subprocess.Popen(
            ["unshare", "-Urnm", "sh", "-c", _MAKE, "sh", str(self._etc), *self._addresses],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "ready\n", "the namespaces were not made"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._holder is not None
        # Its input ends, and so does it.
        self._holder.communicate(timeout=PATIENCE)

    def prefix(self, directory: Path) -> tuple[str, ...]:
        """Goes before a command that is to run in that directory: the one it had belongs to another namespace, where
        its path cannot be told."""
        assert self._holder is not None
        spaces = (f"--{name}=/proc/{self._holder.pid}/ns/{kind}" for name, kind in _SPACES.items())
        return ("nsenter", *spaces, "--preserve-credentials", "--", "sh", "-c", 'cd "$0" && exec "$@"', str(directory))
