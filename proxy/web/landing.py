"""``/``, ``/pip.conf`` and ``/uv.toml``: how to use this proxy, with its address as the client that asks sees it."""

from __future__ import annotations

import asyncio
import hashlib
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from aiohttp import web

from proxy import __version__
from proxy.answer import Answer
from proxy.core.conditions import not_modified
from proxy.core.messages import CacheStatus
from proxy.web.clients import CI, CLIENTS, IMAGE, PIP_CONF, UV_TOML, Address, Recipe
from proxy.web.forwarded import Front
from proxy.web.problems import is_browser
from proxy.web.routes import Route

if TYPE_CHECKING:
    from jinja2 import Environment

# A URL goes on with its slash or its dot in the next line, so that nobody takes its first part for the whole.
_BREAK = re.compile(r"(?<==)|(?<=[^/])(?=/[^/])|(?<=//)|(?=\.)")
_STATIC = Path(__file__).parent / "static"
_PLAIN, _HTML = "text/plain; charset=utf-8", "text/html; charset=utf-8"


def landing(front: Front, indexes: Sequence[str]) -> Mapping[str, Route]:
    """The three routes. ``indexes`` are the names of all indexes, the default one first."""

    async def page(incoming: web.BaseRequest) -> Answer:
        address = Address(front.root(incoming))
        if not is_browser(incoming.headers.get("Accept")):
            return _answer(incoming, plain_text(address, indexes), _PLAIN, ("Vary", "Accept"))
        # The first one loads the engine, which takes longer than any download should have to wait.
        text = await asyncio.to_thread(hypertext, address, indexes)
        return _answer(incoming, text, _HTML, ("Vary", "Accept"), *_walls())

    async def pip_conf(incoming: web.BaseRequest) -> Answer:
        return _download(incoming, "pip.conf", _PLAIN, PIP_CONF)

    async def uv_toml(incoming: web.BaseRequest) -> Answer:
        return _download(incoming, "uv.toml", "application/toml", UV_TOML)

    def _download(incoming: web.BaseRequest, name: str, media_type: str, recipe: Recipe) -> Answer:
        text = configuration(recipe, Address(front.root(incoming)))
        return _answer(incoming, text, media_type, ("Content-Disposition", f'attachment; filename="{name}"'))

    return {"/": page, "/pip.conf": pip_conf, "/uv.toml": uv_toml}


def configuration(recipe: Recipe, address: Address) -> str:
    """A whole file of settings for this address."""
    lines = recipe.lines(address) + (recipe.trusting(address) if address.kind == "secure" else [])
    return "\n".join(lines) + "\n"


def hypertext(address: Address, indexes: Sequence[str]) -> str:
    """The page for people."""
    template = _templates().get_template("landing.html")
    return template.render(
        address=address,
        version=__version__,
        clients=CLIENTS,
        image=IMAGE,
        ci=CI,
        default=indexes[0],
        more=indexes[1:],
    )


def plain_text(address: Address, indexes: Sequence[str]) -> str:
    """The same for terminals."""
    sections = [
        (f"pip-cache-proxy {__version__}: a cache between Python installers and their package index", [address.index]),
        *((", ".join(client.names), client.recipe.lines(address)) for client in CLIENTS),
        ("Dockerfile", IMAGE.lines(address)),
        ("CI", CI.lines(address)),
    ]
    if address.kind == "secure":
        sections.append(("Where your system does not know the authority of this server's certificate", []))
        sections += [(", ".join(client.names), client.recipe.trusting(address)) for client in CLIENTS]
        sections.append(("Dockerfile", IMAGE.trusting(address)))
    if indexes[1:]:
        sections.append(("More indexes", [address.index_of(name) for name in indexes[1:]]))
    sections.append(("Settings to download", [f"{address.root}/{name}" for name in ("pip.conf", "uv.toml")]))
    return "\n".join("\n  ".join([title, *lines]) + "\n" for title, lines in sections)


@cache
def _templates() -> Environment:
    """The engine, loaded when somebody first looks: a server that only installers ask never pays for it."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_STATIC),
        autoescape=True,
        undefined=StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["words"] = _words
    environment.globals["icon"] = quote(environment.get_template("icon.svg").render())
    return environment


def _words(line: str) -> list[list[str]]:
    """The words of a line, each in the pieces between which it may be broken where it is too long for a screen."""
    return [_BREAK.split(word) for word in line.split(" ")]


@cache
def _walls() -> tuple[tuple[str, str], ...]:
    """What the page's browser may do: nothing but this style and this script, which are in the page."""
    style, script = (_digest(_templates().get_template(name).render()) for name in ("landing.css", "landing.js"))
    policy = (
        # The icon is in the page, too; without one browsers ask for /favicon.ico.
        f"default-src 'none'; style-src '{style}'; script-src '{script}'; img-src data:; "
        "form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
    )
    return ("Content-Security-Policy", policy), ("Referrer-Policy", "no-referrer")


def _digest(text: str) -> str:
    """As CSP Level 3 §2.3.1 writes a hash."""
    return f"sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _answer(incoming: web.BaseRequest, text: str, media_type: str, *more: tuple[str, str]) -> Answer:
    body = text.encode()
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = (("Content-Type", media_type), ("ETag", etag), ("Cache-Control", "no-cache"), *more)
    status = CacheStatus("local", "made for this client")
    held = ", ".join(incoming.headers.getall("If-None-Match", ()))
    if held and not_modified({"if-none-match": held}, etag=etag, last_modified=None):
        return Answer(304, headers, b"", status, stop=0)
    return Answer(200, headers, body, status, stop=len(body))
