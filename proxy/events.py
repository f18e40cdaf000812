"""What happened, said once per request to whoever observes: the access log today, metrics later."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """One answered request. ``path`` is the raw path without its query; ``sent`` counts body bytes that left;
    ``seconds`` runs from the parsed request to the last byte, ``upstream_seconds`` is the part spent waiting
    for an upstream; ``upstream_status`` is what that answered, None when it was not asked, did not answer, or its
    body is still on its way; ``aborted`` is true when the connection ended before the body did."""

    method: str
    path: str
    outcome: str
    because: str
    status: int
    sent: int
    seconds: float
    upstream_seconds: float = 0.0
    upstream_status: int | None = None
    collapsed: bool = False
    aborted: bool = False
    client: str = ""
    request_id: str = ""


Observer = Callable[[Event], None]
