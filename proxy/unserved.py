"""The verbs where no server runs: the directory is taken, opened, and let go at once.

What comes of it is the JSON the server would have answered with, made by the same models.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from proxy.directory import free_space
from proxy.errors import Refused, StoreFailed
from proxy.kept import Removed, Sum, Sums
from proxy.pipwords import Document
from proxy.remote import WRONG, CannotAsk
from proxy.store import Store
from proxy.web import models
from proxy.web.facts import files_json, info_of, path_text, removal_of

if TYPE_CHECKING:
    from proxy.sections import Cache

EX_CANTCREAT = 73
T = TypeVar("T")
_NOTHING = Sum(0, 0)


class Unserved:
    """The verbs, done on the directory itself. Every call raises CannotAsk, and OwnedElsewhere when a process
    holds it."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        # What goes wrong is said in one line, by whoever asked.
        logging.getLogger("proxy").addHandler(logging.NullHandler())

    def ask(self, verb: str, values: Mapping[str, Any]) -> Document:
        """All verbs but ``list``."""
        if verb == "dir":
            return _json(models.Directory(dir=path_text(self._cache.dir)))
        if verb == "info":
            return self._within(self._info, self._told(Sums(_NOTHING, _NOTHING, _NOTHING, _NOTHING)))
        request: models.PurgeRequest | models.RemoveRequest
        if verb == "purge":
            request = self._checked(models.PurgeRequest, values)
        else:
            request = self._checked(models.RemoveRequest, values)

        async def remove(store: Store) -> Removed:
            return await store.inventory.remove(request.selection(), dry_run=request.dry_run)

        return _json(removal_of(self._within(remove, Removed((), 0, 0)), dry_run=request.dry_run))

    def listed(self, values: Mapping[str, Any], shorten: Callable[[Document], str]) -> list[str]:
        """Every file that is listed, shortened as it comes."""
        selection = self._checked(models.ListQuery, values).selection()

        async def rows(store: Store) -> list[str]:
            found: list[str] = []
            async for listed in store.inventory.walk(selection):
                found += map(shorten, json.loads(b"[%b]" % files_json(listed.kept)))
            return found

        return self._within(rows, [])

    async def _info(self, store: Store) -> Document:
        return self._told(store.inventory.sums(), store.degraded)

    def _told(self, sums: Sums, degraded: str | None = None) -> Document:
        cache, free = self._cache, None
        with contextlib.suppress(OSError):
            free, _ = free_space(cache.dir, cache.min_free)
        limits = models.Limits(
            max_size=cache.max_size,
            responses_max_size=cache.responses_max_size,
            mounts_max_size=cache.mounts_max_size,
            min_free=cache.min_free,
        )
        return _json(info_of(cache.dir, sums, limits, free=free, degraded=degraded))

    def _checked(self, model: type[models.Asked], values: Mapping[str, Any]) -> models.Asked:
        try:
            return models.checked(model, dict(values))
        except Refused as error:
            raise CannotAsk(error.because, WRONG) from None

    def _within(self, work: Callable[[Store], Awaitable[T]], nothing: T) -> T:
        """``work`` with the directory open; ``nothing`` where there is none yet, or one that nobody has used."""
        directory = self._cache.dir
        try:
            if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
                return nothing
            return asyncio.run(self._opened(work))
        except StoreFailed as error:
            raise CannotAsk(f"cache.dir: {directory}: {error.because}", EX_CANTCREAT) from None
        except OSError as error:
            raise CannotAsk(f"cache.dir: {directory}: {error.strerror}", EX_CANTCREAT) from None

    async def _opened(self, work: Callable[[Store], Awaitable[T]]) -> T:
        cache = self._cache
        store = await Store.open(
            cache.dir,
            max_size=cache.max_size,
            responses_max_size=cache.responses_max_size,
            mounts_max_size=cache.mounts_max_size,
            min_free=cache.min_free,
        )
        try:
            return await work(store)
        finally:
            await store.close()


def _json(answer: models.Model) -> Document:
    fields: Document = answer.model_dump(mode="json")
    return fields
