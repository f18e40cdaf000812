"""The JSON API: one document per project, and one per version, with file URLs that lead here.

It obeys RFC 9111 as it stands: what says nothing of its life is asked for again. Documents are kept without a root;
the one a client used is put in as it is answered, so that nothing a client says reaches the store.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from copy import copy
from dataclasses import replace
from typing import assert_never

from proxy.answer import Answer
from proxy.asking import INLINE
from proxy.codings import compress, decompress
from proxy.core import decide
from proxy.core.conditions import not_modified
from proxy.core.jsonapi import rooted
from proxy.core.lifetime import response_headers
from proxy.core.messages import CacheStatus, Entry, Headers, JsonTarget, Request, Rules
from proxy.core.negotiation import Coding, coding_of
from proxy.core.patterns import Selection
from proxy.documents import BASE_CODING, Documents, Held
from proxy.errors import Refused, UpstreamFailed
from proxy.flights import Flights, Waiting
from proxy.lookups import Fetched, PageLimits
from proxy.outcomes import concluded, served
from proxy.store import Store
from proxy.upstream import Upstream

_MISSING = "the index has no such project or version"
_FINISHED = 16 * 2**20
"""Bytes of finished answers that are remembered, those made last."""
_AT_ONCE = 2
"""Documents finished in threads at one time: each may be as large as a page may, and there are copies of it."""


class JsonApi:
    """Answers from the documents of all indexes; ``sites`` gives each index's URL with its final slash."""

    def __init__(
        self,
        sites: Mapping[str, str],
        store: Store,
        upstream: Upstream,
        *,
        rules: Rules,
        limits: PageLimits,
        clock: Callable[[], float],
    ) -> None:
        self._rules = replace(rules, default_ttl=0.0)
        self._documents = Documents(sites, store, upstream, rules=self._rules, limits=limits, clock=clock)
        self._limits = limits
        self._clock = clock
        self._finishing: Flights[bytes] = Flights(waiters=limits.waiters)
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._finished: OrderedDict[str, bytes] = OrderedDict()
        self._size = 0

    def aside(self, documents: Documents) -> JsonApi:
        """The same API over another room; what that one finishes is not remembered."""
        twin = copy(self)
        twin._documents, twin._finishing = documents, Flights(waiters=self._limits.waiters)
        twin._finished, twin._size = OrderedDict(), 0
        return twin

    @property
    def rules(self) -> Rules:
        """Its own: what says nothing of its life has none."""
        return self._rules

    @property
    def documents(self) -> Documents:
        """What it answers from."""
        return self._documents

    async def close(self) -> None:
        """Cancel what is under way."""
        await self._documents.close()
        await self._finishing.close()

    @property
    def waiting(self) -> Waiting:
        """Who waits for a document of an upstream."""
        return self._documents.waiting

    def forget(self, selection: Selection) -> None:
        """Drop what is remembered of the documents that were removed."""
        self._documents.forget(selection)
        self._finished.clear()  # by version, not by project; they are made again in no time
        self._size = 0

    async def answer(self, request: Request, target: JsonTarget) -> Answer:
        """The document, from the store or the upstream. Raises Refused (404) for an index that has no such API."""
        (entry, base), before = await self.before(request, target)
        match before:
            case decide.Serve():
                assert entry is not None
                if before.refresh_behind:
                    # Too many may have joined that flight; nobody waits for it here.
                    with suppress(UpstreamFailed):
                        self._documents.fetch(target, request, entry)
                status = served(before)
                return await self._show(request, entry, base, status)
            case decide.Refuse():
                raise decide.refusal(before)
            case decide.Fetch() | decide.Revalidate() | decide.Pass():
                return await self._forward(request, target, (entry, base), before.because)
            case _:
                assert_never(before)

    async def before(self, request: Request, target: JsonTarget) -> tuple[Held, decide.Before]:
        """What is here of it, and what to do with that. Raises Refused (404) as ``answer``."""
        held = await self._documents.known(target)
        return held, decide.before_upstream(request, held[0], self._clock(), self._rules)

    # -- the upstream is asked -------------------------------------------------------------------------------

    async def _forward(self, request: Request, target: JsonTarget, held: Held, because: str) -> Answer:
        entry, base = held
        asked, joined = self._clock(), False
        try:
            flight, joined = self._documents.fetch(target, request, entry)
            fetched = await self._waited(flight, request, entry)
        except UpstreamFailed as crowd:
            fetched = Fetched(decide.after_upstream(request, entry, crowd, asked, self._rules), None, entry)
        forward = "uri-miss" if entry is None else "stale"
        status = CacheStatus("miss", because, forward=forward, forward_status=fetched.status, collapsed=joined)
        shown, status = concluded(fetched, status, missing=_MISSING, now=self._clock(), rules=self._rules)
        if fetched.base is not None or entry is None or entry.body != shown.body:
            base = fetched.base or await self._documents.base(shown)
        return replace(await self._show(request, shown, base, status), upstream_seconds=self._clock() - asked)

    async def _waited(self, flight: asyncio.Task[Fetched], request: Request, entry: Entry | None) -> Fetched:
        """The flight's result; without one in time, what slowness means. It flies on then."""
        slow = decide.after_upstream(request, entry, decide.SLOW, self._clock(), self._rules)
        patience = self._rules.stale_after if isinstance(slow, decide.Fallback) else self._limits.first_byte
        try:
            async with asyncio.timeout(patience):
                return await asyncio.shield(flight)
        except TimeoutError:
            return Fetched(slow, None, entry)

    # -- the document as bytes -------------------------------------------------------------------------------

    async def _show(self, request: Request, entry: Entry, base: bytes | None, status: CacheStatus) -> Answer:
        if entry.head.status != 200:
            raise Refused(_MISSING, status=404, outcome="negative")
        if base is None:
            raise UpstreamFailed("the document was evicted a moment ago; ask again", status=503, retry_after=1)
        coding = coding_of(request.headers.get("accept-encoding"))
        etag = _etag(entry, request.root, coding)
        headers: Headers = (
            ("ETag", etag),
            ("Vary", "Accept-Encoding"),
            *response_headers(entry.head, self._clock(), self._rules),
        )
        serial = entry.head.header("X-PyPI-Last-Serial")
        if serial is not None:
            headers += (("X-PyPI-Last-Serial", serial),)
        if not_modified(request.headers, etag=etag, last_modified=None):
            return Answer(304, headers, b"", status, stop=0)
        headers += (("Content-Type", "application/json"),)
        if coding:
            headers += (("Content-Encoding", coding),)
        body = self._finished.get(etag)
        if body is None:
            flight, _ = self._finishing.join(etag, lambda: self._finish(etag, entry, base, request.root, coding))
            body = await asyncio.shield(flight)
        return Answer(200, headers, body, status, stop=len(body))

    async def _finish(self, etag: str, entry: Entry, base: bytes, root: str, coding: Coding) -> bytes:
        """The bytes for the wire. They are remembered: for most documents all clients name the same root."""
        if entry.size <= INLINE:
            body = _finished(base, root, coding)
        else:
            async with self._turns:
                body = await asyncio.to_thread(_finished, base, root, coding)
        self._finished[etag] = body
        self._size += len(body)
        while self._size > _FINISHED:
            self._size -= len(self._finished.popitem(last=False)[1])
        return body


def _finished(base: bytes, root: str, coding: Coding) -> bytes:
    return compress(rooted(decompress(base, BASE_CODING), root), coding)


def _etag(entry: Entry, root: str, coding: Coding) -> str:
    """A strong ETag: it differs for every version, root and coding (RFC 9110 §8.8.3)."""
    digest = hashlib.sha256(f"{entry.body}\0{root}".encode()).hexdigest()[:32]
    return f'"{digest}-{coding[:1] or "i"}"'
