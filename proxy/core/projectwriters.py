"""The project list, written piece by piece from the events it is read as.

Every list is brought into one form first, compact JSON; HTML is written from that.
"""

from __future__ import annotations

import re
from html import escape
from typing import Protocol
from urllib.parse import quote

import orjson

from proxy.core.hypertext import API_VERSION, HTML_FROZEN_AT
from proxy.core.projects import Event, Events, Member
from proxy.core.urls import normalise_project

_PLAIN_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_TOP = (
    '<!DOCTYPE html>\n<html>\n<head>\n<meta charset="utf-8">\n'
    '<meta name="pypi:repository-version" content="1.{}">\n'
    "<title>Simple index</title>\n</head>\n<body>\n"
)


class Writer(Protocol):
    """Turns a list in some form into another: bytes in, bytes out."""

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; what they become."""

    def finish(self) -> bytes:
        """The rest. Raises MalformedPage when what came was not the whole of a list."""


class JsonWriter:
    """Any list as compact JSON: members and entries as they came, key for key."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._before = b"{"
        self._inside = False

    def feed(self, data: bytes) -> bytes:
        """See ``Writer``."""
        return b"".join(map(self._written, self._events.feed(data)))

    def finish(self) -> bytes:
        """See ``Writer``."""
        return b"".join([*map(self._written, self._events.finish()), b"]}" if self._inside else b"}"])

    def _written(self, event: Event) -> bytes:
        if isinstance(event, Member):
            before = b"]," if self._inside else self._before
            self._inside, self._before = False, b","
            return b"%b%b:%b" % (before, orjson.dumps(event.name), orjson.dumps(event.value))
        entries = orjson.dumps(event.projects)[1:-1]
        before, self._before = self._before, b"," if entries else self._before
        if self._inside:
            return before + entries
        self._inside, self._before = True, b"," if entries else b""
        return b'%b"projects":[%b' % (before, entries)


class HtmlWriter:
    """A list as HTML (PEP 503): links relative to the list itself, everything escaped."""

    def __init__(self, events: Events) -> None:
        self._events = events
        # Of a list whose meta follows its projects nothing is promised.
        self._minor = 0
        self._begun = False

    def feed(self, data: bytes) -> bytes:
        """See ``Writer``."""
        return "".join(map(self._written, self._events.feed(data))).encode("utf-8")

    def finish(self) -> bytes:
        """See ``Writer``."""
        return "".join([*map(self._written, self._events.finish()), "</body>\n</html>\n"]).encode("utf-8")

    def _written(self, event: Event) -> str:
        if isinstance(event, Member):
            if event.name == "meta" and (version := API_VERSION.fullmatch(event.value["api-version"])):
                self._minor = min(int(version[1]), HTML_FROZEN_AT)
            return ""
        lines = "".join([_line(project["name"]) for project in event.projects])
        if self._begun:
            return lines
        self._begun = True
        return f"{_TOP.format(self._minor)}{lines}"


def _line(name: str) -> str:
    if _PLAIN_NAME.fullmatch(name):
        return f'<a href="{name}/">{name}</a><br>\n'
    # A name has no dots left that could be a path's, and no slash of its own: the link stays below the list.
    return f'<a href="{quote(normalise_project(name), safe="")}/">{escape(name)}</a><br>\n'
