"""The door: gate, operations, data plane, errors, one Event for each request."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Mapping

from aiohttp import HttpVersion11, web

from proxy.answer import Answer
from proxy.core.messages import FileTarget, JsonTarget, ListTarget, Moved, NotHere, PageTarget, RawTarget, Target
from proxy.errors import ProxyError
from proxy.events import Event, Observer
from proxy.gateway import Gateway
from proxy.web.connection import Connection
from proxy.web.forwarded import Front
from proxy.web.gate import admit
from proxy.web.lane import Lane
from proxy.web.problems import problem
from proxy.web.sending import Sender, Sent
from proxy.web.translate import translated
from proxy.web.uploads import upload_of

_log = logging.getLogger("proxy.web")

Route = Callable[[web.BaseRequest], Awaitable[Answer]]
"""Answers what is no part of the data plane; raises ProxyError as the gateway does. That of ``/admin`` answers all
below it, too."""

_KINDS: Mapping[type[Target], str] = {
    PageTarget: "page",
    ListTarget: "list",
    FileTarget: "file",
    JsonTarget: "json",
    RawTarget: "raw",
    Moved: "other",
    NotHere: "other",
}


def kind_of(target: Target) -> str:
    """What was asked for, in the word that events have for it."""
    return "metadata" if isinstance(target, FileTarget) and target.metadata else _KINDS[type(target)]


class Door:
    """Handles every request of every connection."""

    def __init__(
        self,
        gateway: Gateway,
        sender: Sender,
        operations: Mapping[str, Route],
        *,
        indexes: Collection[str],
        default: str,
        hosts: Collection[str],
        front: Front,
        observers: Collection[Observer],
        mounts: Collection[str] = (),
        lane: Lane | None = None,
    ) -> None:
        self._gateway = gateway
        self._lane = lane
        self._sender = sender
        self._operations = operations
        self._indexes = indexes
        self._default = default
        self._hosts = hosts
        self._mounts = mounts
        self._front = front
        self._observers = observers
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def handle(self, incoming: web.BaseRequest) -> web.StreamResponse:
        """Answer one request and tell the observers."""
        began = time.perf_counter()
        self._under_way += 1
        self._idle.clear()
        incoming["request_id"] = request_id = secrets.token_hex(8)
        try:
            return await self._handled(incoming, began, request_id)
        finally:
            self._under_way -= 1
            if self._under_way == 0:
                self._idle.set()

    async def _handled(self, incoming: web.BaseRequest, began: float, request_id: str) -> web.StreamResponse:
        sent = Sent(0)
        try:
            answer = await self._sender.settled(incoming, await self._answer(incoming, sent))
        except Exception as error:
            if not isinstance(error, ProxyError):
                # A fault of ours: the client gets a constant 500, the log the trace.
                _log.exception("request %s failed", request_id)
            told = error if isinstance(error, ProxyError) else ProxyError("the proxy failed")
            if told.status == 505:
                # aiohttp answers in the version of the request, which we do not speak (RFC 9110 §15.6.6).
                incoming._cache["version"] = HttpVersion11
            answer = problem(told, accept=incoming.headers.get("Accept"), request_id=request_id)
        sent.status = answer.status
        try:
            response = await self._sender.send(incoming, answer, sent)
        finally:
            event = self._tell(incoming, answer, sent, time.perf_counter() - began, request_id)
        if self._lane is not None and answer.lasting is not None and response.keep_alive and not sent.aborted:
            connection = incoming.protocol
            assert isinstance(connection, Connection)
            self._lane.take(connection, answer.lasting, event)
        return response

    async def idle(self) -> None:
        """Return once no request is under way."""
        await self._idle.wait()

    async def _answer(self, incoming: web.BaseRequest, sent: Sent) -> Answer:
        admit(incoming.method, incoming.raw_path, incoming.version, incoming.headers, self._hosts, self._mounts)
        path = incoming.raw_path.partition("?")[0]
        operation = self._operations.get("/admin" if path.startswith("/admin/") else path)
        if operation is not None:
            sent.kind = "admin" if path.startswith("/admin") else "operation"
            return await operation(incoming)
        # Only the JSON API's documents name it, and finding it out costs as much as a warm look-up.
        root = self._front.root(incoming) if path.endswith("/json") else ""
        request = translated(incoming, self._indexes, self._default, root, self._mounts)
        sent.kind = kind_of(request.target)
        if sent.kind != "raw":
            return await self._gateway.answer(request)
        return await self._gateway.answer(request, upload_of(incoming, self._sender.stall))

    def _tell(self, incoming: web.BaseRequest, answer: Answer, sent: Sent, seconds: float, request_id: str) -> Event:
        status = answer.cache_status
        event = Event(
            method=incoming.method,
            # A target in absolute form may carry credentials.
            path=incoming.raw_path.partition("?")[0] if incoming.raw_path.startswith("/") else "-",
            outcome=status.outcome,
            because=sent.because or status.because,
            status=sent.status,
            sent=sent.sent,
            seconds=seconds,
            upstream_seconds=answer.upstream_seconds,
            upstream_status=status.forward_status,
            collapsed=status.collapsed,
            aborted=sent.aborted,
            client=self._front.client(incoming),
            request_id=request_id,
            kind=sent.kind,
        )
        for observer in self._observers:
            observer(event)
        return event
