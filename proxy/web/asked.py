"""What a client of the admin API asks, as far as it may be believed: a query, or a body of bounded size and time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from urllib.parse import parse_qsl

import orjson
from aiohttp import web

from proxy.errors import Refused
from proxy.web.questions import REPEATED, Asked, checked
from proxy.web.uploads import LOST, give_leave, waits_for_leave

LARGEST = 64 * 1024
"""Bytes of a body."""
WITHIN = 30.0
"""Seconds for all of a body."""
_MOST = 64
"""Fields of a query."""


def asked_by_query(model: type[Asked], incoming: web.BaseRequest) -> Asked:
    """What a GET asks for. Raises Refused (400)."""
    return checked(model, _fields(incoming.raw_path.partition("?")[2]))


async def asked_by_body(model: type[Asked], incoming: web.BaseRequest) -> Asked:
    """What a POST asks for; no body is an empty object. Raises Refused: 400, 408, 413, 415, 417."""
    if "?" in incoming.raw_path:
        raise Refused("a change has no query: its fields stand in the body")
    if incoming.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise Refused("a body must not be encoded", status=415, headers=(("Accept-Encoding", "identity"),))
    if (incoming.content_length or 0) > LARGEST:
        raise _too_large()
    if waits_for_leave(incoming):
        await give_leave(incoming)
    body = await _body(incoming)
    try:
        # Its nesting is bounded, and so are its numbers.
        document = orjson.loads(body) if body else {}
    except ValueError:
        raise Refused("the body is not JSON") from None
    return checked(model, document)


def _fields(query: str) -> Mapping[str, object]:
    try:
        if not query.isascii():
            raise ValueError("not a URL")
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=_MOST)
    except ValueError:
        raise Refused("the query is malformed") from None
    fields: dict[str, object] = {}
    for name, value in pairs:
        if name in REPEATED:
            said = fields.setdefault(name, [])
            assert isinstance(said, list)
            said.append(value)
        elif name in fields:
            raise Refused("the query says something twice")
        else:
            fields[name] = value
    return fields


async def _body(incoming: web.BaseRequest) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(WITHIN):
            while not incoming.content.at_eof():
                body += await incoming.content.readany()
                if len(body) > LARGEST:
                    raise _too_large()
    except TimeoutError:
        raise Refused("the body did not come", status=408) from None
    except LOST:
        raise Refused("the body is malformed, or did not come") from None
    return bytes(body)


def _too_large() -> Refused:
    return Refused("the body is larger than 64 KiB", status=413)
