"""Files and their core metadata: fetched only if a page lists them, at most once, and kept for ever.

The listed hash is part of a file's key, so a hash that changes is a miss; a file that is cached is served without
asking anybody. What is not cached yet is followed while it arrives (see ``fills``); the ranges that may not wait
for a whole file are relayed, the one exception to "verified before it is whole" (rule 6 of the house).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

from proxy.answer import Answer, StoredStream
from proxy.bodies import Spool
from proxy.core import decide
from proxy.core.conditions import Prefix, Span, Suffix, Unsatisfiable, not_modified, requested_range
from proxy.core.messages import CacheStatus, Entry, FileTarget, NotHere, Request, Rules
from proxy.core.ranges import received_range, spelled, within
from proxy.core.simple import Listed
from proxy.core.urls import METADATA_SUFFIX, file_key, file_name, projects_of, tag_of
from proxy.errors import Refused, StoreFailed, UpstreamFailed
from proxy.filebodies import etag_of, file_headers, part, unsatisfiable, whole_or_part
from proxy.fill import Completed, Follower, Plan, strongest
from proxy.fills import Fills
from proxy.flights import Flights
from proxy.pages import Pages
from proxy.replies import Reply
from proxy.store import Store
from proxy.upstream import Upstream

RANGE_PATIENCE = 5.0
"""Seconds a range of a small file waits for the whole to be verified before it is relayed."""
_METADATA_MAX = 64 * 2**20
_IDENTITY = {"Accept": "*/*", "Accept-Encoding": "identity"}

Room = Literal["wheels", "responses"]


@dataclass(frozen=True, slots=True)
class FileLimits:
    """``range_fill_max``: up to this size a range makes the whole file be fetched; ``unknown_max``: the most
    bytes taken of a file that nobody gave a size; ``first_byte`` seconds for an answer to HEAD."""

    range_fill_max: int
    unknown_max: int
    first_byte: float


@dataclass(frozen=True, slots=True)
class Wanted:
    """One file as its page lists it: what to ask for, and what it must turn out to be."""

    target: FileTarget
    project: str
    url: str
    hashes: dict[str, str]
    size: int | None

    @property
    def key(self) -> str:
        """The store key; the strongest listed hash is a part of it."""
        pin = strongest(self.hashes)
        return file_key(self.target, f"{pin[0]}={pin[1]}" if pin else "")

    @property
    def etag(self) -> str | None:
        """The ETag, when the page alone tells it."""
        return etag_of(self.hashes["sha256"]) if "sha256" in self.hashes else None

    @property
    def room(self) -> Room:
        """Where in the store it lies."""
        return "responses" if self.target.metadata else "wheels"

    @property
    def name(self) -> str:
        """Its name on disk."""
        name = file_name(self.target.location)
        return name + METADATA_SUFFIX if self.target.metadata else name


class Files:
    """Files of every index."""

    def __init__(
        self,
        pages: Pages,
        fills: Fills,
        store: Store,
        upstream: Upstream,
        *,
        rules: Rules,
        limits: FileLimits,
        clock: Callable[[], float],
    ) -> None:
        self._pages = pages
        self._fills = fills
        self._store = store
        self._upstream = upstream
        self._rules = replace(rules, immutable=True)
        self._limits = limits
        self._clock = clock
        self._heads: Flights[int | None] = Flights()

    async def close(self) -> None:
        """Cancel the HEAD requests under way."""
        await self._heads.close()

    async def answer(self, request: Request, target: FileTarget) -> Answer:
        """The file, from the store or as it arrives. Raises Refused (404) for a file no page lists."""
        listed = await self._listed(request, target)
        if isinstance(listed, Entry):
            stored = await self._stored("responses" if target.metadata else "wheels", listed.key)
            if stored is None:
                raise Refused("no page of this index lists that file", status=404)
            return self._from_store(request, *stored)
        stored = await self._stored(listed.room, listed.key)
        if stored is not None:
            return self._from_store(request, *stored)
        before = decide.before_upstream(request, None, self._clock(), self._rules)
        if isinstance(before, decide.Refuse):
            raise UpstreamFailed(before.because, status=before.status, retry_after=2 if before.status == 503 else None)
        try:
            return await self._fetch(request, listed)
        except UpstreamFailed as failure:
            if failure.upstream_status in (404, 410):
                await self._still_listed(request, listed)
            raise

    # -- the manifest rule -----------------------------------------------------------------------------------

    async def _listed(self, request: Request, target: FileTarget) -> Wanted | Entry:
        """What a page says of that URL; a cached entry that pages no longer list; or Refused."""
        projects = projects_of(file_name(target.location))
        for project in projects:
            manifest = await self._pages.manifest(target.index, project)
            if manifest is not None and target.location in manifest:
                return self._wanted(target, project, manifest[target.location])
        entry = await self._cached_anyway(target, projects)
        if entry is not None:
            return entry
        before = decide.before_upstream(request, None, self._clock(), self._rules)
        if isinstance(before, decide.Refuse):
            raise _refusal(before)
        if projects:
            # One look, at the likeliest project: an invented URL must not make us walk the index.
            manifest = await self._pages.look(target.index, projects[0], request)
            if manifest is not None and target.location in manifest:
                return self._wanted(target, projects[0], manifest[target.location])
        raise Refused("no page of this index lists that file", status=404)

    async def _cached_anyway(self, target: FileTarget, projects: tuple[str, ...]) -> Entry | None:
        prefix = file_key(target, "")
        room: Room = "responses" if target.metadata else "wheels"
        try:
            for project in projects:
                for entry in await self._store.find(room, tag_of(target.index, project)):
                    if entry.key.startswith(prefix):
                        return entry
        except StoreFailed:
            return None
        return None

    def _wanted(self, target: FileTarget, project: str, listed: Listed) -> Wanted:
        if not target.metadata:
            return Wanted(target, project, listed.url, dict(listed.hashes), listed.size)
        if listed.metadata is None:
            raise Refused("the index offers no metadata for that file", status=404)
        # PEP 658: the metadata's URL is the file's with ".metadata" appended to its path.
        parts = urlsplit(listed.url)
        url = urlunsplit(parts._replace(path=parts.path + METADATA_SUFFIX))
        return Wanted(target, project, url, dict(listed.metadata), None)

    async def _still_listed(self, request: Request, wanted: Wanted) -> None:
        """A listed file that the upstream lacks is a failure (CDN lag) unless its page has dropped it."""
        manifest = await self._pages.look(wanted.target.index, wanted.project, request)
        if manifest is None or wanted.target.location not in manifest:
            raise Refused("the index no longer lists that file", status=404)

    # -- from the store --------------------------------------------------------------------------------------

    async def _stored(self, room: Room, key: str) -> tuple[Entry, StoredStream] | None:
        try:
            stored = await self._store.stored(room, key)
        except StoreFailed:
            return None
        return (stored.entry, StoredStream(stored.handle, stored.entry.size)) if stored is not None else None

    def _from_store(self, request: Request, entry: Entry, stream: StoredStream) -> Answer:
        because = "verified against the hash its page lists" if entry.verified else "pinned by its first complete copy"
        return whole_or_part(request, stream, entry.size, etag_of(entry.sha256), CacheStatus("hit", because, hit=True))

    # -- not cached yet --------------------------------------------------------------------------------------

    async def _fetch(self, request: Request, wanted: Wanted) -> Answer:
        if not_modified(request.headers, etag=wanted.etag, last_modified=None):
            status = CacheStatus("hit", "the hash its page lists is the client's ETag", hit=True)
            return Answer(304, file_headers(wanted.etag), b"", status, stop=0)
        if request.method == "HEAD":
            return await self._head(request, wanted)
        match requested_range(request.headers, size=wanted.size, etag=wanted.etag):
            case None:
                return await self._follow(wanted)
            case Unsatisfiable():
                assert wanted.size is not None
                status = CacheStatus("refused", "no byte of the file is in that range")
                return unsatisfiable(wanted.size, wanted.etag, status)
            case Span(start, stop) if stop == wanted.size and "if-range" in request.headers:
                return await self._follow(wanted, start)
            case asked if wanted.size is not None and wanted.size > self._limits.range_fill_max:
                return await self._relay(wanted, asked)
            case asked:
                return await self._range_of_fill(request, wanted, asked)

    async def _follow(self, wanted: Wanted, start: int = 0) -> Answer:
        since = self._clock()
        follower, joined = await self._join(self._plan(wanted))
        fill = follower.fill
        status = CacheStatus("miss", "not cached", forward="uri-miss", collapsed=joined, stored=fill.keeps)
        if start and fill.size is not None:
            answer = part(follower, Span(start, fill.size), fill.size, wanted.etag, status)
        else:
            answer = Answer(200, file_headers(wanted.etag), follower, status, stop=fill.size)
        return replace(answer, upstream_seconds=self._clock() - since)

    async def _join(self, plan: Plan) -> tuple[Follower, bool]:
        """A follower of that plan's fill, once it has a byte to show."""
        follower, joined = self._fills.join(plan)
        try:
            await follower.fill.ready()
        except BaseException:
            follower.close()
            raise
        return follower, joined

    async def _range_of_fill(self, request: Request, wanted: Wanted, asked: Span | Prefix | Suffix) -> Answer:
        since = self._clock()
        follower, joined = self._fills.join(self._plan(wanted))
        try:
            async with asyncio.timeout(RANGE_PATIENCE):
                completed = await follower.fill.complete()
        except TimeoutError:
            follower.close()
            return await self._relay(wanted, asked)
        except BaseException:
            follower.close()
            raise
        because = "the whole file was fetched and verified first"
        status = CacheStatus("miss", because, forward="uri-miss", collapsed=joined, stored=follower.fill.keeps)
        answer = whole_or_part(request, follower, completed.size, etag_of(completed.sha256), status)
        return replace(answer, upstream_seconds=self._clock() - since)

    async def _relay(self, wanted: Wanted, asked: Span | Prefix | Suffix) -> Answer:
        """A range passed on as it comes, not verified and not kept; the same range is asked for once."""
        since = self._clock()
        headers = {**_IDENTITY, "Range": spelled(asked)}

        def judge(reply: Reply) -> tuple[int, int | None]:
            return self._judge_part(reply, asked)

        plan = Plan(
            key=f"{wanted.key}|{spelled(asked)}",
            index=wanted.target.index,
            url=wanted.url,
            judge=judge,
            keep=None,
            headers=headers,
            size=wanted.size,
            limit=self._limits.unknown_max,
        )
        follower, joined = await self._join(plan)
        size = follower.fill.size
        span = within(asked, size) if size is not None else None
        if span is None or size is None:
            follower.close()
            raise UpstreamFailed("the upstream does not tell the size of the file", status=502)
        status = CacheStatus("relay", "a range of a file that is not cached", forward="partial", collapsed=joined)
        return replace(part(follower, span, size, wanted.etag, status), upstream_seconds=self._clock() - since)

    async def _head(self, request: Request, wanted: Wanted) -> Answer:
        """HEAD of a file not cached: from the page when it tells all, else one collapsed HEAD upstream."""
        if wanted.size is not None and wanted.etag is not None:
            status = CacheStatus("hit", "size and hash are on the page", hit=True)
            return Answer(200, file_headers(wanted.etag), b"", status, stop=wanted.size)
        since = self._clock()
        flight, joined = self._heads.join(wanted.key, lambda: self._ask_head(wanted))
        try:
            async with asyncio.timeout(self._limits.first_byte):
                size = await asyncio.shield(flight)
        except TimeoutError:
            raise UpstreamFailed("the upstream does not answer", status=503, retry_after=2) from None
        status = CacheStatus("relay", "asked upstream", forward="uri-miss", forward_status=200, collapsed=joined)
        return Answer(200, file_headers(wanted.etag), b"", status, stop=size, upstream_seconds=self._clock() - since)

    async def _ask_head(self, wanted: Wanted) -> int | None:
        index, url = wanted.target.index, wanted.url
        async with self._upstream.open(index, url, pool="file", headers=_IDENTITY, method="HEAD") as reply:
            self._judge(reply)
            return reply.length

    # -- how it is fetched and kept --------------------------------------------------------------------------

    def _plan(self, wanted: Wanted) -> Plan:
        async def keep(spool: Spool, completed: Completed) -> None:
            tag = tag_of(wanted.target.index, wanted.project)
            url = urlunsplit(urlsplit(wanted.url)._replace(query=""))  # a signature in it is a secret
            entry = Entry(
                wanted.key, tag, url, completed.head, "", completed.size, completed.sha256, completed.verified
            )
            await self._store.adopt(wanted.room, spool, entry, wanted.name)

        def judge(reply: Reply) -> tuple[int, int | None]:
            self._judge(reply)
            return 0, reply.length

        return Plan(
            key=wanted.key,
            index=wanted.target.index,
            url=wanted.url,
            judge=judge,
            keep=keep,
            headers=_IDENTITY,
            size=wanted.size,
            hashes=wanted.hashes,
            limit=_METADATA_MAX if wanted.target.metadata else self._limits.unknown_max,
        )

    def _judge(self, reply: Reply) -> None:
        """Raise what a head that is no 200 means; the same table as for pages decides it."""
        request = Request("GET", NotHere(""), {})
        match decide.after_upstream(request, None, reply.head, self._clock(), self._rules):
            case decide.Fail() as fail:
                status = reply.head.status
                raise UpstreamFailed(
                    fail.because, status=fail.status, retry_after=fail.retry_after, upstream_status=status
                )
            case decide.Keep(negative=True):
                because = "the upstream lacks a file that its page lists"
                raise UpstreamFailed(because, status=503, retry_after=2, upstream_status=reply.head.status)
            case _:
                if reply.head.status != 200:
                    raise UpstreamFailed("the upstream answered with something that is no file")

    def _judge_part(self, reply: Reply, asked: Span | Prefix | Suffix) -> tuple[int, int | None]:
        if reply.head.status != 206:
            self._judge(reply)
            return 0, reply.length
        received = received_range(reply.head.header("Content-Range"))
        if received is None or within(asked, received[1]) != received[0]:
            raise UpstreamFailed("the upstream sent another range than was asked for")
        return received[0].start, received[1]


def _refusal(refuse: decide.Refuse) -> UpstreamFailed:
    return UpstreamFailed(refuse.because, status=refuse.status, retry_after=2 if refuse.status == 503 else None)
