"""What happened, said once per request to whoever observes: the access log, the metrics, the audit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Event:
    """One answered request. ``path`` is the raw path without its query; ``sent`` counts body bytes that left;
    ``seconds`` runs from the parsed request to the last byte, ``upstream_seconds`` is the part spent waiting
    for an upstream; ``upstream_status`` is what that answered, None when it was not asked, did not answer, or its
    body is still on its way; ``aborted`` is true when the connection ended before the body did; ``kind`` is what was
    asked for: page, list, file, metadata, json, raw, operation, admin or other."""

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
    kind: str = "other"


@dataclass(frozen=True, slots=True)
class UpstreamEvent:
    """One request to an upstream, once it is over; each redirect followed and each further try is one of its own.
    ``status`` is what it answered, None when no answer came (``because`` says why in constant words, "" when whoever
    asked gave up). ``seconds`` run until its head, or until it was clear that none would come; ``received`` counts
    body bytes as they came, before any decoding."""

    index: str
    status: int | None
    seconds: float
    received: int = 0
    because: str = ""


@dataclass(frozen=True, slots=True)
class Deed:
    """What somebody changed by the admin API, or was not let do. ``action`` is remove, purge, refresh or refused;
    ``what`` says of what, in the client's own words, which may be anything; ``result`` how it went. ``scope`` is that
    of the token, "" where it was none of ours."""

    action: str
    what: Mapping[str, str]
    result: Mapping[str, str | int | bool | None]
    scope: str
    client: str
    request_id: str


class Observer(Protocol):
    """Is told of each answered request."""

    def __call__(self, event: Event, /) -> None:
        """One request."""


Again = Callable[[float, float, str], None]
"""One more request like one before: when it ended (seconds since the epoch), its ``seconds`` and its ``client``."""


class Repeating(Observer, Protocol):
    """An observer that is told of equal answers at less cost: what is said of all of them is put together once."""

    def like(self, event: Event) -> Again:
        """What to call for each of those that are like this one."""


Auditor = Callable[[Deed], None]
UpstreamObserver = Callable[[UpstreamEvent], None]
