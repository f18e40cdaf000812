"""What an explanation says: values, no handles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from proxy.core.messages import Headers

Kind = Literal["page", "list", "file", "metadata", "json", "raw", "moved", "nothing", "operation"]
Decision = Literal["serve", "fetch", "revalidate", "relay", "look", "refuse", "moved", "operation"]
"""``look``: a page is asked for first, which may list the file. ``relay``: what comes is passed on and not kept."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What is kept of the upstream's answer. Times are seconds since the epoch; ``age``, ``lifetime`` and ``ttl`` (what
    is left; negative once stale) are seconds, the last two None where they are endless. ``body`` is a page's version,
    or a path below the cache directory; ``url`` has no query."""

    key: str
    url: str
    status: int
    size: int
    sha256: str
    verified: bool
    received_at: float
    age: int
    lifetime: int | None
    ttl: int | None
    fresh: bool
    etag: str | None
    last_modified: str | None
    serial: str | None
    body: str
    headers: Headers


@dataclass(frozen=True, slots=True)
class ListedFile:
    """What a page says of a file: the project whose page it is, the strongest hash as ``sha256=...`` (None: the page
    gives none, the first complete copy is pinned), and the size in bytes if it tells."""

    project: str
    pin: str | None
    size: int | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer to one request, foretold.

    ``status`` and ``outcome`` (the word of the log) are None for an operation, and where they depend on what an
    upstream says: ``asks_upstream`` then is true, ``upstream_url`` is what it is asked for, without its query.
    ``falls_back``: should that fail, what is stored is served. ``refresh_behind``: the upstream is asked, and nobody
    waits for it. ``under_way``: somebody asks for the same at this moment. ``headers``: what the answer carries, as far
    as it is known. ``stored`` is what speaks for the path, a remembered 404 too; ``listed`` is for files and metadata.
    """

    method: str
    path: str
    kind: Kind
    decision: Decision
    because: str
    index: str | None = None
    project: str | None = None
    outcome: str | None = None
    status: int | None = None
    asks_upstream: bool = False
    upstream_url: str | None = None
    falls_back: bool = False
    refresh_behind: bool = False
    under_way: bool = False
    headers: Headers = ()
    listed: ListedFile | None = None
    stored: Stored | None = None
