"""The admin API's door: another site's page, a token, a path, a method, a scope, a question; in this order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from aiohttp import web

from proxy.answer import Answer
from proxy.core.messages import CacheStatus
from proxy.errors import ProxyError, Refused, StoreFailed
from proxy.events import Auditor, Deed
from proxy.web.access import Access, Scope
from proxy.web.adminroutes import PREFIX, ROUTES, AdminRoute, Caller, Verb, methods_of
from proxy.web.asked import asked_by_body, asked_by_query
from proxy.web.changes import Changes, Result
from proxy.web.forwarded import Front
from proxy.web.looks import HEADERS, Looks
from proxy.web.models import Nothing
from proxy.web.openapi import openapi
from proxy.web.routes import Route

_PATHS: Mapping[str, AdminRoute] = {route.path: route for route in ROUTES}


class Elsewhere(Refused):
    """A path that is none of the admin API's."""

    status = 404
    hint = "GET /admin/openapi.json lists what there is."


class Admin:
    """Answers what is below /admin."""

    def __init__(self, access: Access, looks: Looks, changes: Changes, front: Front, audit: Auditor) -> None:
        self._access = access
        self._front = front
        self._audit = audit
        self._verbs: Mapping[Verb, Callable[[Any, Caller], Awaitable[Answer]]] = {
            "dir": looks.dir,
            "info": looks.info,
            "list": looks.list,
            "explain": looks.explain,
            "remove": changes.remove,
            "purge": changes.purge,
            "refresh": changes.refresh,
            "openapi": self._openapi,
        }

    def routes(self) -> Mapping[str, Route]:
        """For the door's table."""
        return {PREFIX: self.answer}

    async def answer(self, incoming: web.BaseRequest) -> Answer:
        """The answer to one request. Raises ProxyError."""
        root, client = self._front.root(incoming), self._front.client(incoming)
        scope: Scope | None = None
        try:
            scope = self._access.scope(incoming.headers, root)
            route = _route(incoming)
            if route.scope == "write" and scope != "write":
                raise Refused("this token may look, and change nothing", status=403)
        except Refused as error:
            if error.status in (401, 403):
                what = {"method": incoming.method, "path": incoming.raw_path.partition("?")[0]}
                result: Result = {"status": error.status, "because": error.because}
                self._audit(Deed("refused", what, result, scope or "", client, incoming["request_id"]))
            raise
        caller = Caller(scope, client, root, incoming["request_id"])
        if route.method == "GET":
            asked = asked_by_query(route.asked, incoming)
        else:
            asked = await asked_by_body(route.asked, incoming)
        try:
            return await self._verbs[route.verb](asked, caller)
        except StoreFailed as error:
            raise ProxyError(error.because, status=503) from error

    async def _openapi(self, _: Nothing, caller: Caller) -> Answer:
        # Made once, which takes as long as a hundred answers.
        body = orjson.dumps(await asyncio.to_thread(openapi, caller.root))
        return Answer(200, HEADERS, body, CacheStatus("local", "the admin API"), stop=len(body))


def _route(incoming: web.BaseRequest) -> AdminRoute:
    route = _PATHS.get(incoming.raw_path.partition("?")[0])
    if route is None:
        raise Elsewhere("there is nothing at this path")
    allowed = methods_of(route)
    if incoming.method not in allowed:
        said = " and ".join(allowed)
        raise Refused(f"this path is asked with {said}", status=405, headers=(("Allow", ", ".join(allowed)),))
    return route
