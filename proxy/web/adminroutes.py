"""The table of the admin API: dispatch, access and the OpenAPI document are made of it, and of nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from proxy.web.access import Scope
from proxy.web.models import (
    Directory,
    ExplainQuery,
    Explanation,
    Info,
    Listing,
    ListQuery,
    Model,
    Nothing,
    PurgeRequest,
    Refreshed,
    RefreshRequest,
    Removal,
    RemoveRequest,
)

PREFIX = "/admin"
Verb = Literal["dir", "info", "list", "explain", "remove", "purge", "refresh", "openapi"]


@dataclass(frozen=True, slots=True)
class AdminRoute:
    """One operation. ``asked`` describes the query of a GET and the body of a POST; ``told`` the answer, None for a
    document of its own. ``statuses`` are those beside what any of them may have (EVERY, and BODY for a POST)."""

    verb: Verb
    method: Literal["GET", "POST"]
    path: str
    scope: Scope
    asked: type[Model]
    told: type[Model] | None
    summary: str
    statuses: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the scope of the token, the address, what the client calls this server, and the id of the request."""

    scope: Scope
    client: str
    root: str
    request_id: str


ROUTES = (
    AdminRoute("dir", "GET", "/admin/cache/dir", "read", Nothing, Directory, "Where the cache lies"),
    AdminRoute(
        "info", "GET", "/admin/cache/info", "read", Nothing, Info, "How much is cached, and the limits"
    ),
    AdminRoute("list", "GET", "/admin/cache/list", "read", ListQuery, Listing, "What is cached, in a stable order"),
    AdminRoute("explain", "GET", "/admin/cache/explain", "read", ExplainQuery, Explanation, "What would happen now"),
    AdminRoute("remove", "POST", "/admin/cache/remove", "write", RemoveRequest, Removal, "Remove what a pattern names"),
    AdminRoute("purge", "POST", "/admin/cache/purge", "write", PurgeRequest, Removal, "Remove everything"),
    AdminRoute(
        "refresh",
        "POST",
        "/admin/cache/refresh",
        "write",
        RefreshRequest,
        Refreshed,
        "Look at a project's page again, now",
        frozenset({404, 502}),
    ),
    AdminRoute("openapi", "GET", "/admin/openapi.json", "read", Nothing, None, "This document"),
)

EVERY = frozenset({400, 401, 403, 405, 414, 421, 431, 500, 503})
BODY = frozenset({408, 413, 415, 417})


def methods_of(route: AdminRoute) -> tuple[str, ...]:
    """What its path may be asked with: HEAD works where GET does."""
    return ("GET", "HEAD") if route.method == "GET" else ("POST",)
