"""The C library's heap, kept small: one for all threads, and what is free in it goes back to the system.

glibc gives each of the first threads (eight for each core) an arena of its own, so that they need not wait for each
other. Ours allocate little beside the interpreter's lock, and what a page or an archive took in one arena is of no use
to the next, which comes in another: after a peak some 30 MB stay that nobody uses. And what is free below something
that is not is given back only when it is asked for. Other C libraries do neither, and have no such functions.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable

_M_ARENA_MAX = -8  # malloc.h; see mallopt(3)
_EVERY = 60.0
"""Seconds between two times that free memory is given back."""


def use_one_arena() -> None:
    """To be called before there are threads. An environment that says otherwise (MALLOC_ARENA_MAX) was for a process
    that knows better: it is overruled."""
    if (mallopt := _function("mallopt")) is not None:
        mallopt(_M_ARENA_MAX, 1)


async def give_back_now_and_then() -> None:
    """Until cancelled."""
    trim = _function("malloc_trim")
    while trim is not None:
        await asyncio.sleep(_EVERY)
        await asyncio.to_thread(trim, 0)


def _function(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None)
