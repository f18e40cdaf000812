"""A request to a mount: whose it is, what may be known of it, and how it is asked of the origin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from proxy.core.messages import Headers, RawTarget, Request, Rules
from proxy.core.passing import CONDITIONS, CREDENTIALS, asked_of_upstream, for_one_connection, one_hop_less


@dataclass(frozen=True, slots=True)
class Mount:
    """One HTTP tree: ``url`` ends in a slash; ``pass_credentials``: whether its origin gets what clients prove
    themselves with, and may set cookies."""

    name: str
    url: str
    rules: Rules
    pass_credentials: bool = False


@dataclass(frozen=True, slots=True)
class MountLimits:
    """``waiters`` clients for one answer at one time; ``body_max`` bytes kept of a body that does not say how long it
    is."""

    waiters: int
    body_max: int


@dataclass(frozen=True, slots=True)
class Asked:
    """A request to a mount, and when it came. Its headers are those that the origin sees, or two answers could be taken
    for one: they lack credentials where those stay here, and what is for one connection only."""

    mount: Mount
    target: RawTarget
    request: Request
    arrived: float

    @classmethod
    def of(cls, mount: Mount, target: RawTarget, request: Request, arrived: float) -> Asked:
        """The request as that mount may see it."""
        gone = for_one_connection(request.fields) | (frozenset() if mount.pass_credentials else CREDENTIALS)
        headers = {name: value for name, value in request.headers.items() if name not in gone}
        return cls(mount, target, replace(request, headers=headers), arrived)

    @property
    def url(self) -> str:
        """What it is upstream."""
        return self.mount.url + self.target.rest

    def unconditional(self) -> Asked:
        """The same without the client's own conditions and range, upstream as here."""
        headers = {name: value for name, value in self.request.headers.items() if name not in CONDITIONS}
        fields = tuple(line for line in self.request.fields if line[0].lower() not in CONDITIONS)
        return replace(self, request=replace(self.request, headers=headers, fields=fields))

    def lines(self, via: str, conditions: Mapping[str, str] | None = None) -> Headers:
        """Its lines as they are sent on; ``conditions`` of our own take the place of the client's (RFC 9111 §4.3.1)."""
        without = frozenset() if self.mount.pass_credentials else CREDENTIALS
        fields = one_hop_less(self.request)
        if not conditions:
            return asked_of_upstream(fields, without=without, via=via)
        lines = asked_of_upstream(fields, without=without | CONDITIONS, via=via)
        return (*lines, *conditions.items())
