"""Descriptors of open files and sockets, of which a process may have only so many.

Connections get half of them: the other half is for what those ask for, a body or an upstream each. Beyond that nobody
is accepted until some are free again; who waits is in the queue of the kernel meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import resource

_FOR_EACH = 4
"""Descriptors for every connection that may be open: itself, a body, an upstream and its spool file."""


def ask_for(connections: int) -> int | None:
    """Have the system allow what so many connections need, as far as this process may. How many connections it is
    enough for, when these are fewer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FOR_EACH * connections
    if 0 <= soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        # A system may have a limit beside these, as macOS has.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    enough = _for_connections()
    return None if enough is None or enough >= connections else enough


def is_scarce(descriptor: int) -> bool:
    """Whether that is the descriptor of a connection beyond what is for connections: the system gives the lowest that
    is free."""
    enough = _for_connections()
    return enough is not None and descriptor >= enough


def are_scarce(descriptor: int) -> bool:
    """Whether the next one would be that, as a copy of an open one shows."""
    try:
        copy = os.dup(descriptor)
    except OSError:
        return True
    os.close(copy)
    return is_scarce(copy)


def _for_connections() -> int | None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft // 2
