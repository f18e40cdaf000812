"""One request to an index or a mount: who that is as its operator configured it, and what redirects and retries use
up."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from aiohttp import ClientResponse, ClientSession, ClientTimeout

from proxy.connections import Budget
from proxy.core.messages import Headers
from proxy.credentials import Credentials
from proxy.egress import Destination
from proxy.replies import rest_of
from proxy.uploads import Body

PAUSE = (0.1, 0.5)
"""Seconds before another try, at least and at most."""
_ONLY_TO_OWN_ORIGIN = frozenset({"authorization", "cookie"})
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Site:
    """An index or a mount as its operator configured it. ``proxy`` is the URL of a forward proxy; ``ca_file`` is
    trusted beside the system's own certificates; ``private`` lets its pages name private addresses; ``missing`` are
    the statuses that mean 404 here, besides 404 and 410; ``credentials`` go to the index's own origin alone."""

    name: str
    url: str
    private: bool = False
    proxy: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    missing: frozenset[int] = frozenset()
    credentials: Credentials | None = field(default=None, repr=False)


@dataclass(slots=True)
class Call:
    """What stays the same, and what is used up, over the redirects and retries of one request."""

    site: Site
    configured: Destination
    budget: Budget
    session: ClientSession
    method: str
    ends: float | None
    retries: int
    headers: Mapping[str, str]
    asked_again: bool = False
    left: bool = False
    lines: Headers = ()
    body: Body | None = None

    @property
    def asked(self) -> Set[str]:
        """The names of the fields that are sent, in lower case."""
        return self.headers.keys()

    def says(self, response: ClientResponse) -> tuple[int, float | None]:
        """Its status, and how many seconds it asks to be left alone, as far as that is about the whole origin."""
        return response.status, rest_of(response)

    def may_retry(self, kind: str) -> bool:
        """Count one more try, at most ``budget.retries`` in all and one of them for a protocol error; none when
        ``total`` would end before it, nor, where there is such an end, after silence: who took a page's request and has
        not answered for so long has it still, and a second one would only be more work."""
        if self.ends is not None and (kind == "silence" or asyncio.get_running_loop().time() + PAUSE[0] >= self.ends):
            return False
        if kind == "final" or self.retries == 0 or (kind == "protocol" and self.asked_again):
            return False
        self.retries -= 1
        self.asked_again = self.asked_again or kind == "protocol"
        return True

    def headers_for(self, there: Destination) -> dict[str, str]:
        """Credentials of an index go to its own origin only, and not when somebody else sent us there."""
        self.left = self.left or there.origin != self.configured.origin
        if self.left:
            return {name: value for name, value in self.headers.items() if name not in _ONLY_TO_OWN_ORIGIN}
        known = self.site.credentials
        authorization = known.authorization() if known is not None else None
        return {**self.headers} if authorization is None else {**self.headers, "authorization": authorization}

    def timeout(self) -> ClientTimeout:
        """No limit on the wait for a free connection of the pool but HEAD_WITHIN: it says nothing about the
        host. ``total`` goes on through the body."""
        left = None
        if self.ends is not None:
            left = max(0.001, self.ends - asyncio.get_running_loop().time())
        return ClientTimeout(total=left, connect=None, sock_connect=self.budget.connect, sock_read=self.budget.idle)


@dataclass(slots=True)
class Forward(Call):
    """A request of a client, sent on as it is. It is asked again only when it is safe and has no body (RFC 9110
    §9.2.2: "A proxy MUST NOT automatically retry non-idempotent requests")."""

    @property
    def asked(self) -> Set[str]:
        """The names of the fields that are sent, in lower case."""
        return {name.lower() for name, _ in self.lines}

    def says(self, response: ClientResponse) -> tuple[int, float | None]:
        """Any answer shows that the origin is there: what one path says is nothing about the others."""
        return 200, None

    def may_retry(self, kind: str) -> bool:
        """As ``Call``, for what may be sent twice."""
        return self.method in _SAFE and self.body is None and Call.may_retry(self, kind)
