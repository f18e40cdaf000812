"""The OpenAPI 3.1 document of the admin API, made from its table of routes and the schemas of its models."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from http import HTTPStatus
from typing import Any

from proxy import __version__
from proxy.web.adminroutes import BODY, EVERY, ROUTES, AdminRoute
from proxy.web.models import Model, Problem, schemas

_ABOUT = """\
What is cached, and what must go: `pip cache` for a whole team. Each request needs a bearer token: that of `[admin]`, or
the one that the server wrote to `admin.token` in its cache directory. A read token may use what is a GET. Sizes are
bytes, times RFC 3339 in UTC. HEAD works where GET does."""

_WHY: Mapping[int, str] = {
    400: "A field that is missing, unknown, said twice or out of bounds, a body that is no JSON, or bad HTTP",
    401: "No bearer token",
    403: "Another token than ours, a read token where something changes, or a page of another site",
    404: "No such index",
    405: "Another method than this path has, which Allow names",
    408: "The body did not come within 30 seconds",
    413: "The body is larger than 64 KiB",
    414: "The request line is longer than 4 KiB",
    415: "The body is encoded",
    417: "Expect names something else than 100-continue",
    421: "The Host field names none of server.allowed_hosts",
    431: "A field is longer than 8 KiB, or there are too many of them",
    500: "A fault of the proxy",
    502: "The upstream answered with something that is of no use",
    503: "The disk or the upstream fails, or the proxy is offline",
}
_HEADERS: Mapping[int, tuple[str, str]] = {
    401: ("WWW-Authenticate", "Bearer"),
    405: ("Allow", "The methods there are"),
}
_SCHEMAS = "#/components/schemas/{model}"


def openapi(root: str) -> dict[str, Any]:
    """The document for clients that reach ``/`` at ``root``."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "pip-cache-proxy: admin API", "version": __version__, "description": _ABOUT},
        "servers": [{"url": root}],
        "security": [{"token": []}],
        **_body(),
    }


@cache
def _body() -> Mapping[str, Any]:
    statuses = EVERY | BODY | {status for route in ROUTES for status in route.statuses}
    models = {model for route in ROUTES for model in (route.asked, route.told) if model is not None} | {Problem}
    return {
        "paths": {route.path: {route.method.lower(): _operation(route)} for route in ROUTES},
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "responses": {str(status): _refusal(status) for status in sorted(statuses)},
            "schemas": schemas(sorted(models, key=lambda model: model.__name__), _SCHEMAS),
        },
    }


def _operation(route: AdminRoute) -> dict[str, Any]:
    statuses = EVERY | route.statuses | (BODY if route.method == "POST" else frozenset())
    answer = {"type": "object"} if route.told is None else _reference(route.told)
    made: dict[str, Any] = {
        "operationId": route.verb,
        "summary": route.summary,
        "description": f"Scope of the token: {route.scope}.",
        "responses": {
            "200": {"description": "Done", "content": {"application/json": {"schema": answer}}},
            **{str(status): {"$ref": f"#/components/responses/{status}"} for status in sorted(statuses)},
        },
    }
    if route.method == "GET":
        made["parameters"] = _parameters(route.asked)
    else:
        required = any(field.is_required() for field in route.asked.model_fields.values())
        content = {"application/json": {"schema": _reference(route.asked)}}
        made["requestBody"] = {"required": required, "content": content}
    return made


def _parameters(model: type[Model]) -> list[dict[str, Any]]:
    found = schemas([model], _SCHEMAS)[model.__name__]
    required = found.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in required, "schema": _without_null(schema)}
        for name, schema in found["properties"].items()
    ]


def _without_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A query has no word for null: the field is just not there."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    rest = {name: value for name, value in schema.items() if name != "anyOf" and (name, value) != ("default", None)}
    return {**rest, **kinds[0]} if kinds else rest


def _refusal(status: int) -> dict[str, Any]:
    made: dict[str, Any] = {
        "description": f"{HTTPStatus(status).phrase}: {_WHY[status]}",
        "content": {
            "application/problem+json": {"schema": _reference(Problem)},
            # For people, who prefer text/html in Accept.
            "text/plain": {"schema": {"type": "string"}},
        },
    }
    if status in _HEADERS:
        name, meaning = _HEADERS[status]
        made["headers"] = {name: {"description": meaning, "required": True, "schema": {"type": "string"}}}
    return made


def _reference(model: type[Model]) -> dict[str, str]:
    return {"$ref": _SCHEMAS.format(model=model.__name__)}
