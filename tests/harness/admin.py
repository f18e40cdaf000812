"""An operator at the proxy's admin API, with the token that the proxy has made for itself."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from tests.harness.fetch import Fetched, fetch
from tests.harness.world import World


def ask(here: World, method: str, path: str, body: object = None) -> Fetched:
    """A request with the write token; ``body`` is sent as JSON."""
    headers = {"Authorization": f"Bearer {_token(here)}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    return fetch(f"{here.proxy.url}{path}", headers, method, body=data)


def explain(here: World, path: str, headers: Mapping[str, str] | None = None, method: str = "GET") -> dict[str, Any]:
    """What the proxy says would become of that request."""
    fields = [("header", f"{name}: {value}") for name, value in (headers or {}).items()]
    got = ask(here, "GET", f"/admin/cache/explain?{urlencode([('path', path), ('method', method), *fields])}")
    assert got.status == 200, got.body
    told: dict[str, Any] = json.loads(got.body)
    return told


def refresh(here: World, project: str, index: str | None = None) -> Fetched:
    """A look at that project's page, now."""
    body = {"project": project} if index is None else {"project": project, "index": index}
    return ask(here, "POST", "/admin/cache/refresh", body)


def begin_refresh(here: World, project: str, connection: socket.socket) -> None:
    """The same on a raw connection, whose answer is not waited for."""
    body = json.dumps({"project": project})
    head = f"POST /admin/cache/refresh HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {_token(here)}"
    fields = f"Content-Type: application/json\r\nContent-Length: {len(body)}"
    connection.sendall(f"{head}\r\n{fields}\r\n\r\n{body}".encode())


def _token(here: World) -> str:
    return (here.proxy.cache / "admin.token").read_text().strip()
