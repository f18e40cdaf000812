"""What the admin API tells and leaves as it is: dir, info, list, explain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import orjson
from multidict import CIMultiDict

from proxy.answer import Answer, Flow
from proxy.core.messages import CacheStatus, Headers
from proxy.directory import free_space
from proxy.errors import Refused
from proxy.inventory import BATCH
from proxy.kept import Cursor
from proxy.listed import Listed
from proxy.store import Store
from proxy.web.adminroutes import Caller
from proxy.web.explain import Explainer
from proxy.web.facts import cursor_of, cursor_text, explanation_of, files_json, info_of, path_text
from proxy.web.models import Directory, ExplainQuery, Limits, ListQuery, Model, Nothing

HEADERS: Headers = (("Content-Type", "application/json"), ("Cache-Control", "no-store"))


class Looks:
    """Answers what changes nothing. ``served`` tells hits and misses since ``since`` (seconds since the epoch)."""

    def __init__(
        self, store: Store, explainer: Explainer, *, min_free: int, served: Callable[[], tuple[int, int]], since: float
    ) -> None:
        self._store = store
        self._explainer = explainer
        self._min_free = min_free
        self._served = served
        self._since = since

    async def dir(self, _: Nothing, __: Caller) -> Answer:
        """Where the cache lies."""
        return told(Directory(dir=path_text(self._store.directory)), "where the cache lies")

    async def info(self, _: Nothing, __: Caller) -> Answer:
        """Sums, limits and ratios: nothing is walked. What has been answered is counted."""
        await self._store.behind.settled()
        stats = self._store.stats()
        info = info_of(
            self._store.directory,
            self._store.inventory.sums(),
            Limits(
                max_size=stats.wheels.limit,
                responses_max_size=stats.responses.limit,
                mounts_max_size=stats.mounts.limit,
                min_free=self._min_free,
            ),
            free=await asyncio.to_thread(self._free),
            served=self._served(),
            since=self._since,
            degraded=self._store.degraded,
        )
        return told(info, "what is counted")

    async def list(self, query: ListQuery, _: Caller) -> Answer:
        """Files, as they are found."""
        try:
            after = None if query.cursor is None else cursor_of(query.cursor)
        except ValueError:
            raise Refused("cursor: expected what an answer gave as its cursor") from None
        return await flowing(self._listing(query, after), "what is kept")

    async def explain(self, query: ExplainQuery, caller: Caller) -> Answer:
        """What would become of a request."""
        pairs = (line.partition(":") for line in query.header)
        headers = CIMultiDict((name, value.strip()) for name, _, value in pairs)
        found = await self._explainer.explain(query.method, query.path, headers, caller.root)
        return told(explanation_of(found), "what would happen")

    async def _listing(self, query: ListQuery, after: Cursor | None) -> AsyncGenerator[bytes, None]:
        """The document, batch by batch: all of it is never in memory."""
        page = _Page(query.limit)
        batch = min(query.limit + 1, BATCH)
        separator = b'{"files":['
        walk = self._store.inventory.written(query.selection(), after, page.write, batch=batch)
        async with aclosing(walk) as pieces:
            async for piece in pieces:
                if piece:
                    yield separator + piece
                    separator = b","
                if page.goes_on:
                    break
        begun = b"" if separator == b"," else separator
        cursor = cursor_text(page.last) if page.goes_on and page.last is not None else None
        yield begun + b'],"cursor":%b}' % orjson.dumps(cursor)

    def _free(self) -> int | None:
        try:
            return free_space(self._store.directory, self._min_free)[0]
        except OSError:
            return None


class _Page:
    """A list of so many rows: written on a thread of the store, looked at in between. ``last`` is the cursor behind
    it, ``goes_on`` whether there was more."""

    def __init__(self, limit: int) -> None:
        self._left = limit
        self.last: Cursor | None = None
        self.goes_on = False

    def write(self, listed: Listed) -> bytes:
        """The JSON of as many as there is room for."""
        part = listed.kept[: self._left]
        self._left -= len(part)
        self.goes_on = len(part) < len(listed.kept)
        if part:
            self.last = listed.cursor(len(part) - 1)
        return files_json(part)


def told(model: Model, because: str) -> Answer:
    """A model as an answer."""
    body = model.model_dump_json().encode()
    return Answer(200, HEADERS, body, CacheStatus("local", because), stop=len(body))


async def flowing(pieces: AsyncGenerator[bytes, None], because: str) -> Answer:
    """A document as an answer that is sent while it is made; what fails before its first piece is raised here."""
    return Answer(200, HEADERS, await Flow.begun(pieces), CacheStatus("local", because))
