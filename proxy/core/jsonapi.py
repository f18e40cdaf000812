"""The JSON API: is it the document that was asked for, and where do the file URLs in it lead.

Tools that read this API do not resolve relative URLs, so a client gets absolute ones, with the very root it used.
What is kept has none: in its place stands a NUL, the one byte that no JSON text can hold (RFC 8259 §7 has it
escaped in strings, and nothing else allows it). So whatever a package wrote into its description, no text of it
is taken for a root; and what one client said in its Host can never be what another one gets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson
from packaging.utils import canonicalize_version

from proxy.core.hypertext import absolute
from proxy.core.messages import JsonTarget
from proxy.core.simple import DEPTH_LIMIT, crowded, deeper_than
from proxy.core.urls import link_of, normalise_project
from proxy.errors import MalformedPage

_ROOT = b"\0"


def parse(body: bytes, target: JsonTarget) -> dict[str, Any]:
    """The document of that project, and of that version when one was asked for (compared as PEP 440 does: an
    index may answer 1.0 to 1.0.0). Anything else raises MalformedPage (503)."""
    if crowded(body):
        raise _malformed("the document holds too many values")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _malformed("the upstream's answer is not JSON") from error
    match document:
        case {"info": {"name": str(name), **info}}:
            pass
        case _:
            raise _malformed("the upstream's answer is no document of the JSON API")
    if normalise_project(name) != target.project:
        raise _malformed("the document is of another project")
    version = info.get("version")
    if target.version is not None and version is not None and not _same_version(version, target.version):
        raise _malformed("the document is of another version")
    if deeper_than(document, DEPTH_LIMIT):
        raise _malformed("the document is nested too deeply")
    assert isinstance(document, dict)
    return document


def _malformed(because: str) -> MalformedPage:
    return MalformedPage(because, status=503, retry_after=2)


def _same_version(told: object, asked: str) -> bool:
    try:
        return isinstance(told, str) and canonicalize_version(told) == canonicalize_version(asked)
    except ValueError:  # a number of more digits than int() takes
        return False


def base_of(document: Mapping[str, Any], url: str, index: str) -> bytes:
    """The document as it is kept: its file URLs lead below ``/files/{index}/`` of a root that is still open, all
    else is unchanged. ``url`` is where it came from, for relative links. A file without a place here is left out.
    """

    def here(file: Any) -> list[Any]:
        if not isinstance(file, dict) or "url" not in file:
            return [file]
        link = file["url"]
        try:
            path = link_of(absolute(link, url) or "" if link and isinstance(link, str) else "")
        except ValueError:
            return []
        # pip spells the colon of a port so before it asks, and pip-tools finds a hash only under that spelling:
        # otherwise it would download every file to hash it.
        host, _, rest = path.partition("/")
        # orjson does not look into a fragment: so the NUL gets where none of its own could be.
        place = orjson.dumps(f"/files/{index}/{host.replace(':', '%3A')}/{rest}")
        return [{**file, "url": orjson.Fragment(b'"' + _ROOT + place[1:])}]

    made = dict(document)
    if "urls" in made:
        made["urls"] = _mapped(made["urls"], here)
    if isinstance(made.get("releases"), dict):
        made["releases"] = {version: _mapped(files, here) for version, files in made["releases"].items()}
    return orjson.dumps(made)


def _mapped(files: Any, here: Callable[[Any], list[Any]]) -> Any:
    return [kept for file in files for kept in here(file)] if isinstance(files, list) else files


def rooted(base: bytes, root: str) -> bytes:
    """The document as a client gets it; ``root`` is ``scheme://authority[/prefix]``."""
    return base.replace(_ROOT, orjson.dumps(root)[1:-1])
