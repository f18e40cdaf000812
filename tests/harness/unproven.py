"""``python -m tests.harness.unproven PYTHON -m proxy …``: that command with bodies that are served as they lie there,
to show what their verification is for, and what it costs. Goes before the command of a ProxyServer as its
``prefix``."""

from __future__ import annotations

import runpy
import sys
from typing import BinaryIO

from proxy.core.messages import Entry
from proxy.directory import RoomName
from proxy.memory import FileRow
from proxy.verification import Verification


async def _opened(self: Verification, room: RoomName, key: str, row: FileRow, entry: Entry) -> BinaryIO | None:
    return self.open(room, row)


if __name__ == "__main__":
    Verification.opened = _opened  # type: ignore[method-assign]  # which is what this program is for
    sys.argv = sys.argv[3:]
    runpy.run_module("proxy", run_name="__main__")
