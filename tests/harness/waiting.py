"""Waiting for what the outside world does: a condition, looked at often, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 20.0


def eventually(condition: Callable[[], object], what: str, timeout: float = PATIENCE) -> None:
    """Returns once the condition holds. Raises AssertionError naming ``what`` after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what}")
        time.sleep(0.01)
