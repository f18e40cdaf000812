"""The values that flow between the rooms: all frozen, none with a handle in it.

Header lists keep the order and the spelling they arrived in; names are compared without case (RFC 9110 §5.1).
Times are seconds since the epoch as float, sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

Headers = tuple[tuple[str, str], ...]


def combined(headers: Headers, name: str) -> str | None:
    """All values of one field joined by a comma (RFC 9110 §5.2); None when it is absent."""
    wanted = name.lower()
    values = [value for key, value in headers if key.lower() == wanted]
    return ", ".join(values) if values else None


@dataclass(frozen=True, slots=True)
class ListTarget:
    """The project list of one index. ``up`` leads from this URL to the root: ``../`` or ``../../../``."""

    index: str
    up: str


@dataclass(frozen=True, slots=True)
class PageTarget:
    """One project's page; ``project`` is normalised (PEP 503). ``up`` is ``../../`` or ``../../../../``."""

    index: str
    project: str
    up: str


@dataclass(frozen=True, slots=True)
class FileTarget:
    """A file, or its core metadata; ``location`` is the normalised upstream URL without its scheme, and
    without ``.metadata``."""

    index: str
    location: str
    metadata: bool


@dataclass(frozen=True, slots=True)
class JsonTarget:
    """What the JSON API says of a project, or of one version of it; ``project`` is normalised, ``version`` as the
    client spelled it, decoded."""

    index: str
    project: str
    version: str | None = None


@dataclass(frozen=True, slots=True)
class RawTarget:
    """Anything below a mount. ``rest`` is what stands behind ``/raw/{mount}/`` as the client spelled it, with its
    query: it is put behind the mount's URL as it is."""

    mount: str
    rest: str


@dataclass(frozen=True, slots=True)
class Moved:
    """A spelling we answer with a relative 301."""

    location: str


@dataclass(frozen=True, slots=True)
class NotHere:
    """Nothing we serve: 404 without an upstream request."""

    because: str


Target = ListTarget | PageTarget | FileTarget | JsonTarget | RawTarget | Moved | NotHere


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asked, in our words.

    ``headers`` has lower-case names and holds only those that can change the answer; a client's Authorization,
    Cookie and the like never get this far. ``wanted_format`` is the value of ``?format=``, None when absent.
    ``path`` is the raw path as sent, for the log. ``root`` is what the client put before it to reach us,
    ``scheme://authority[/prefix]``; it is for links in an answer and reaches no key, no store and no upstream.
    For a mount ``headers`` holds all of them, and ``fields`` their lines as they came; else that is empty.
    """

    method: str
    target: Target
    headers: Mapping[str, str]
    wanted_format: str | None = None
    path: str = ""
    root: str = ""
    fields: Headers = ()


@dataclass(frozen=True, slots=True)
class Head:
    """A response's status and header list, and when it was asked for and received (RFC 9111 §4.2.3)."""

    status: int
    headers: Headers
    asked_at: float
    received_at: float

    def header(self, name: str) -> str | None:
        """The field's combined value, None when absent."""
        return combined(self.headers, name)


# All that is read again of an index's answer: how long it lives, and which version of what it is. Its other fields are
# shown to nobody, and may be for us alone: cookies, realms, URLs that are signed for us, names that only its operator
# knows. So they are not kept. (Of a mount all are passed on, and kept but for those of RFC 9111 §3.1: see ``passing``.)
KEPT = frozenset({
    "age",
    "cache-control",
    "content-type",
    "date",
    "etag",
    "expires",
    "last-modified",
    "vary",
    "x-pypi-last-serial",
})  # fmt: skip


def kept_head(head: Head) -> Head:
    """The head of an index's answer as it lies on disk."""
    headers = tuple((name, value) for name, value in head.headers if name.lower() in KEPT)
    return replace(head, headers=headers)


@dataclass(frozen=True, slots=True)
class Entry:
    """What is kept of one response: facts, no handles.

    ``head`` is the upstream's real head (a 304 has been folded into it). ``body`` says where the body is: for a
    page its version (a hex sha256 over what clients see of it), for a file its path below the cache
    directory. ``size`` and ``sha256`` describe the body as served (a page: as received, decoded). ``verified``
    is true when a hash listed by the page was checked.
    """

    key: str
    tag: str
    url: str
    head: Head
    body: str
    size: int
    sha256: str
    verified: bool = False


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """How an answer came about, as RFC 9211 words it; it becomes a header, a log line and a metric.

    ``outcome`` is one of hit, stale, revalidated, miss, relay, missing, negative, error, refused, moved, local.
    """

    outcome: str
    because: str
    hit: bool = False
    forward: str | None = None
    forward_status: int | None = None
    ttl: int | None = None
    stored: bool = False
    collapsed: bool = False

    def header(self) -> str:
        """The value of Cache-Status (RFC 9211 §2). ``because`` is our own text, so it needs no escaping."""
        parts = ["pip-cache-proxy"]
        if self.hit:
            parts.append("hit")
        if self.forward is not None:
            parts.append(f"fwd={self.forward}")
        if self.forward_status is not None:
            parts.append(f"fwd-status={self.forward_status}")
        if self.ttl is not None:
            parts.append(f"ttl={self.ttl}")
        if self.stored:
            parts.append("stored")
        if self.collapsed:
            parts.append("collapsed")
        if self.because:
            parts.append(f'detail="{self.because}"')
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings that decisions need, per kind of thing; all durations in seconds.

    ``heuristic_fraction`` and ``heuristic_cap`` bound the life of a response that says only Last-Modified
    (RFC 9111 §4.2.2); ``default_ttl`` is that of one that says nothing at all; ``max_ttl`` caps explicit life.
    ``immutable`` is for files pinned by a hash: headers are ignored, nothing is ever revalidated.
    ``reload`` is "limited", "ignore" or "honour". ``transparent`` is for mounts: every status is an answer, and RFC
    9111 decides as it stands; else an index is asked, whose pages have rules of the house beside it.
    """

    default_ttl: float = 300.0
    max_ttl: float = 86_400.0
    heuristic_fraction: float = 0.1
    heuristic_cap: float = 600.0
    negative_ttl: float = 60.0
    stale_if_error: float = 604_800.0
    stale_while_revalidate: float = 0.0
    stale_after: float = 1.0
    reload: str = "limited"
    min_reload_interval: float = 10.0
    offline: bool = False
    immutable: bool = False
    transparent: bool = False
