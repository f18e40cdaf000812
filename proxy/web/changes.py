"""What the admin API changes: remove, purge, refresh. Each leaves a line in the audit, whatever becomes of it.

A change goes on to its end when the client leaves: half of what somebody wanted gone is nothing anybody wants.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Mapping
from typing import Any, TypeVar

import orjson

from proxy.answer import Answer
from proxy.core.patterns import Selection
from proxy.errors import ProxyError
from proxy.events import Auditor, Deed
from proxy.gateway import Gateway
from proxy.kept import Removed
from proxy.web.adminroutes import Caller
from proxy.web.facts import files_json, refreshed_of
from proxy.web.looks import flowing, told
from proxy.web.models import PurgeRequest, Refreshed, RefreshRequest, RemoveRequest

_BATCH = 500
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
        async def done() -> tuple[Removed, Result]:
            removed = await self._gateway.remove(selection, dry_run=dry_run)
            return removed, {"count": len(removed.files), "bytes": removed.bytes}

        removed = await self._noted(action, what, caller, done(), {"dry_run": dry_run})
        because = "what would go" if dry_run else "what went"
        return await flowing(_document(removed, dry_run), because)

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
            told_of = {name: each for name, each in what.items() if each}
            self._audit(Deed(action, told_of, {**how, **result}, caller.scope, caller.client, caller.request_id))

    async def _to_the_end(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # whoever asked has been told, or has left


async def _document(removed: Removed, dry_run: bool) -> AsyncGenerator[bytes, None]:
    """A Removal, batch by batch: it may name 100,000 files, and others want to be served meanwhile."""
    separator = b'{"removed":['
    for start in range(0, len(removed.files), _BATCH):
        yield separator + files_json(removed.files[start : start + _BATCH])
        separator = b","
        await asyncio.sleep(0)
    end = {
        "count": len(removed.files),
        "bytes": removed.bytes,
        "directories": removed.directories,
        "dry_run": dry_run,
    }
    yield (b"" if removed.files else separator) + b"]," + orjson.dumps(end)[1:]
