"""The way in: aiohttp's request becomes ours."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from urllib.parse import parse_qs, quote

from aiohttp import web
from multidict import MultiMapping

from proxy.core.messages import FileTarget, Moved, NotHere, RawTarget, Request
from proxy.core.urls import parse_target
from proxy.errors import Refused

# All that can change an answer. Authorization, Cookie and the like are dropped here and reach nothing behind.
_KEPT = (
    "Accept",
    "Accept-Encoding",
    "Cache-Control",
    "If-Modified-Since",
    "If-None-Match",
    "If-Range",
    "Pragma",
    "Range",
    "User-Agent",
)


def translated(
    incoming: web.BaseRequest,
    indexes: Collection[str],
    default: str,
    root: str = "",
    mounts: Collection[str] = (),
) -> Request:
    """The request in our words; ``root`` is what its client put before the path. Raises Refused (400)."""
    request = request_of(incoming.method, incoming.raw_path, incoming.headers, indexes, default, root, mounts)
    if isinstance(request.target, RawTarget):
        # aiohttp spells the names that it knows in its own way.
        lines = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in incoming.raw_headers)
        return replace(request, fields=tuple(lines))
    return request


def request_of(
    method: str,
    raw_target: str,
    headers: MultiMapping[str],
    indexes: Collection[str],
    default: str,
    root: str = "",
    mounts: Collection[str] = (),
) -> Request:
    """The same of its parts; names in ``headers`` are compared without case. A query on a file is nothing we serve:
    files have none (and no tokens in them)."""
    path, mark, query = raw_target.partition("?")
    target = parse_target(path, indexes, default, mounts)
    if isinstance(target, RawTarget):
        fields = tuple((name, _octets(value)) for name, value in headers.items())
        whole: dict[str, str] = {}
        for name, value in fields:
            lowered = name.lower()
            whole[lowered] = f"{whole[lowered]}, {value}" if lowered in whole else value
        return Request(method, RawTarget(target.mount, f"{target.rest}{mark}{query}"), whole, None, path, root, fields)
    if query and isinstance(target, FileTarget):
        target = NotHere("a file has no query")
    kept = {name.lower(): ", ".join(headers.getall(name)) for name in _KEPT if name in headers}
    if "cache-control" in kept:
        kept["cache-control"] = _without_no_store(kept["cache-control"])
    wanted = _wanted_format(query)
    if isinstance(target, Moved) and wanted is not None:
        target = Moved(f"{target.location}?format={quote(wanted, safe='')}")
    return Request(method, target, kept, wanted, path, root)


def _octets(value: str) -> str:
    """A field's value as our Headers have it, a character for each octet. RFC 9110 §5.5 leaves open what those beyond
    ASCII mean: UTF-8 is passed on as it is, and what is none would be lost on the way."""
    try:
        return value if value.isascii() else value.encode().decode("latin-1")
    except UnicodeEncodeError:
        raise Refused("a field of the request holds bytes that are no UTF-8") from None


def _wanted_format(query: str) -> str | None:
    """The value of ``?format=``, None when there is none; the rest of a query changes nothing."""
    try:
        values = parse_qs(query, keep_blank_values=True, max_num_fields=16).get("format")
    except ValueError:
        raise Refused("the query has too many fields", status=400) from None
    return values[0] if values else None


def _without_no_store(value: str) -> str:
    """RFC 9111 §5.2.1.5 asks not to keep "any part of either this request or any response to it": nothing of a
    client's request is ever kept, and what an index or a file says is nobody's secret."""
    return ", ".join(part for part in value.split(",") if part.strip().lower() != "no-store").strip()
