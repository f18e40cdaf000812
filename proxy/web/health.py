"""``/healthz`` and ``/readyz``: for whoever starts, stops and balances servers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import orjson
from aiohttp import web

from proxy.answer import Answer
from proxy.core.messages import CacheStatus
from proxy.web.routes import Route


def health(ready: Callable[[], bool], degraded: Callable[[], str | None]) -> Mapping[str, Route]:
    """Both routes. ``degraded`` names what does not work, None when all does."""

    async def alive(_: web.BaseRequest) -> Answer:
        return _plain(200, {"status": "alive"}, "the process answers")

    async def readiness(_: web.BaseRequest) -> Answer:
        if not ready():
            return _plain(503, {"status": "draining"}, "the proxy is shutting down")
        because = degraded()
        if because is not None:
            # Still ready: a broken store is a slow proxy, not a failing one.
            return _plain(200, {"status": "degraded", "because": because}, because)
        return _plain(200, {"status": "ready"}, "the proxy serves")

    return {"/healthz": alive, "/readyz": readiness}


def _plain(status: int, document: dict[str, str], because: str) -> Answer:
    body = orjson.dumps(document)
    headers = (("Content-Type", "application/json"), ("Cache-Control", "no-store"))
    return Answer(status, headers, body, CacheStatus("local", because), stop=len(body))
