"""What the admin API changes: remove, purge, refresh. Each leaves a line in the audit, whatever becomes of it.

A change goes on to its end when the client leaves: half of what somebody wanted gone is nothing anybody wants. A dry
run ends with its client.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

import orjson

from proxy.answer import Answer
from proxy.core.patterns import Selection
from proxy.errors import ProxyError
from proxy.events import Auditor, Deed
from proxy.gateway import Gateway
from proxy.kept import Removed
from proxy.listed import Listed
from proxy.web.adminroutes import Caller
from proxy.web.facts import files_json, refreshed_of
from proxy.web.looks import flowing, told
from proxy.web.models import PurgeRequest, Refreshed, RefreshRequest, RemoveRequest

_BATCH = 500
_BEGIN = b'{"removed":['
T = TypeVar("T")
Result = Mapping[str, str | int | bool | None]


class Changes:
    """Does what an operator says, and notes who it was."""

    def __init__(self, gateway: Gateway, audit: Auditor) -> None:
        self._gateway = gateway
        self._audit = audit
        self._under_way: set[asyncio.Task[Any]] = set()

    async def remove(self, request: RemoveRequest, caller: Caller) -> Answer:
        """What a pattern and filters name."""
        kinds = request.kind if isinstance(request.kind, list) else [request.kind or ""]
        filters = {"project": request.project, "version": request.version, "index": request.index}
        what = {"pattern": request.pattern, **{name: each or "" for name, each in filters.items()}}
        what["kind"] = ",".join(kinds)
        work = self._removed("remove", request.selection(), what, caller, dry_run=request.dry_run)
        return await self._to_the_end(work)

    async def purge(self, request: PurgeRequest, caller: Caller) -> Answer:
        """Everything."""
        work = self._removed("purge", request.selection(), {}, caller, dry_run=request.dry_run)
        return await self._to_the_end(work)

    async def refresh(self, request: RefreshRequest, caller: Caller) -> Answer:
        """One project's page."""
        return await self._to_the_end(self._refreshed(request, caller))

    async def _removed(
        self, action: str, selection: Selection, what: Mapping[str, str], caller: Caller, *, dry_run: bool
    ) -> Answer:
        if dry_run:
            return await flowing(self._foretold(action, selection, what, caller), "what would go")

        async def done() -> tuple[Removed, Result]:
            removed = await self._gateway.remove(selection)
            return removed, {"count": len(removed.files), "bytes": removed.bytes}

        removed = await self._noted(action, what, caller, done(), {"dry_run": False})
        return await flowing(_went(removed), "what went")

    async def _foretold(
        self, action: str, selection: Selection, what: Mapping[str, str], caller: Caller
    ) -> AsyncGenerator[bytes, None]:
        """A Removal as it is found: it ends with its client, and all of it is never in memory."""
        count = size = 0
        separator = _BEGIN
        result: Result = {"failed": "the client left"}
        try:
            async with aclosing(self._gateway.kept(selection, _counted)) as batches:
                async for files, number, total in batches:
                    count, size = count + number, size + total
                    yield separator + files
                    separator = b","
            yield (b"" if count else separator) + _end(count, size, 0, dry_run=True)
            result = {"count": count, "bytes": size}
        except ProxyError as error:
            result = {"failed": error.because}
            raise
        finally:
            self._note(action, what, caller, {"dry_run": True, **result})

    async def _refreshed(self, request: RefreshRequest, caller: Caller) -> Answer:
        async def done() -> tuple[Refreshed, Result]:
            refreshed = refreshed_of(await self._gateway.refresh(request.index, request.project))
            return refreshed, {"outcome": refreshed.outcome, "status": refreshed.status}

        what = {"project": request.project, "index": request.index or ""}
        return told(await self._noted("refresh", what, caller, done(), {}), "a look at a page")

    async def _noted(
        self,
        action: str,
        what: Mapping[str, str],
        caller: Caller,
        work: Coroutine[Any, Any, tuple[T, Result]],
        how: Result,
    ) -> T:
        """What the work comes to, once it is in the audit."""
        result: Result = {"failed": "the proxy failed"}
        try:
            done, result = await work
            return done
        except ProxyError as error:
            result = {"failed": error.because}
            raise
        finally:
            self._note(action, what, caller, {**how, **result})

    def _note(self, action: str, what: Mapping[str, str], caller: Caller, result: Result) -> None:
        told_of = {name: each for name, each in what.items() if each}
        self._audit(Deed(action, told_of, result, caller.scope, caller.client, caller.request_id))

    async def _to_the_end(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # whoever asked has been told, or has left


def _counted(listed: Listed) -> tuple[bytes, int, int]:
    """Rows as JSON, how many, and their bytes."""
    return files_json(listed.kept), len(listed.kept), sum(each.size for each in listed.kept)


async def _went(removed: Removed) -> AsyncGenerator[bytes, None]:
    """A Removal, batch by batch: it may name 100,000 files, and others want to be served meanwhile."""
    separator = _BEGIN
    for start in range(0, len(removed.files), _BATCH):
        yield separator + files_json(removed.files[start : start + _BATCH])
        separator = b","
        await asyncio.sleep(0)
    end = _end(len(removed.files), removed.bytes, removed.directories, dry_run=False)
    yield (b"" if removed.files else separator) + end


def _end(count: int, size: int, directories: int, *, dry_run: bool) -> bytes:
    end = {"count": count, "bytes": size, "directories": directories, "dry_run": dry_run}
    return b"]," + orjson.dumps(end)[1:]
