"""Places where a test kills this process, between any two steps of what must outlive a kill.

``FAILPOINT=linked`` in the environment does so the first time that place is reached, ``FAILPOINT=linked:3`` the third
time. Without it a place costs one look at the environment, and none lies on the way of a hit.
"""

from __future__ import annotations

import itertools
import os
import signal

_times = itertools.count(1)


def reach(name: str) -> None:
    """End this process as kill -9 does, in whatever thread, when this is the place that was asked for."""
    asked = os.environ.get("FAILPOINT")
    if asked is None:
        return
    place, _, time = asked.partition(":")
    if place == name and next(_times) == int(time or 1):
        os.kill(os.getpid(), signal.SIGKILL)
        signal.pause()  # no step further, should the signal take a moment
