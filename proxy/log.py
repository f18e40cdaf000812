"""The log: one line per request and per message on stderr, plain for a terminal or JSON for machines.

Fields are cut at 512 bytes and control characters are escaped, so no client can forge a line; there are no query
strings and no headers in it.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import orjson

from proxy.events import Auditor, Deed, Event, Observer

FIELD_LIMIT = 512
LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def clean(text: str) -> str:
    """Text made safe for one field of one line."""
    safe = clean_line(text[: FIELD_LIMIT + 1])
    encoded = safe.encode()
    return safe if len(encoded) <= FIELD_LIMIT else f"{encoded[: FIELD_LIMIT - 3].decode(errors='ignore')}…"


def _stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1000):03d}Z"


class JsonLines(logging.Formatter):
    """One JSON object per record: time, level, event, and the fields of the record's ``fields``."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        fields: dict[str, Any] = getattr(record, "fields", {})
        line: dict[str, Any] = {
            "time": _stamp(record.created),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", "message"),
        }
        line |= {name: clean(value) if isinstance(value, str) else value for name, value in fields.items()}
        if "event" not in record.__dict__ or not fields:
            line["message"] = clean(record.getMessage())
        if record.exc_info:
            # orjson refuses lone surrogates, which an exception may repeat from a request.
            line["trace"] = self.formatException(record.exc_info).encode(errors="backslashreplace").decode()
        return orjson.dumps(line).decode()


class TextLines(logging.Formatter):
    """One line of plain text per record."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line; a trace follows on lines of its own."""
        line = f"{_stamp(record.created)} {record.levelname.lower():7} {clean_line(record.getMessage())}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def clean_line(text: str) -> str:
    """A whole message made safe for one line; its fields have been cut before."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def set_up(format_name: str, level: str) -> None:
    """Send all that is logged to stderr in that format (``text`` or ``json``) from that level on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if format_name == "json" else TextLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(LEVELS[level])
    # aiohttp and asyncio say at "info" what our own line says better.
    logging.getLogger("aiohttp").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def start_line() -> logging.Logger:
    """Where the start line goes: it is written at every level, or nobody could find port 0."""
    log = logging.getLogger("proxy.start")
    log.setLevel(logging.INFO)
    return log


def access_log() -> Observer:
    """An observer that logs each request."""
    log = logging.getLogger("proxy.access")

    def observe(event: Event) -> None:
        level = logging.WARNING if event.status >= 500 or event.aborted else logging.INFO
        if not log.isEnabledFor(level):
            return
        fields = {
            "method": event.method,
            "path": event.path,
            "status": event.status,
            "outcome": event.outcome,
            "because": event.because,
            "bytes": event.sent,
            "seconds": round(event.seconds, 6),
            "upstream_seconds": round(event.upstream_seconds, 6),
            "upstream_status": event.upstream_status,
            "collapsed": event.collapsed,
            "aborted": event.aborted,
            "client": event.client,
            "request_id": event.request_id,
        }
        # What failed is looked into: "overloaded or broken" is one thing with a 500, another with a 429.
        told = event.status >= 500 and event.upstream_status is not None
        because = f"{event.because}; upstream_status {event.upstream_status}" if told else event.because
        notes = "".join(f" {note}" for note in ("collapsed", "aborted") if fields[note])
        log.log(
            level,
            "%s %s %d %s%s %dB %.1fms (%s) %s%s",
            clean(event.method),
            clean(event.path),
            event.status,
            event.outcome,
            notes,
            event.sent,
            event.seconds * 1000,
            because,
            clean(event.client),
            # A client that was told of an error knows it by this.
            f" {event.request_id}" if event.status >= 400 else "",
            extra={"event": "request", "fields": fields},
        )

    return observe


def audit_log() -> Auditor:
    """An auditor that logs each deed, at any level: who removed what must be found later. Who was refused is an
    ordinary warning."""
    done, refused = logging.getLogger("proxy.audit"), logging.getLogger("proxy.refused")
    done.setLevel(logging.INFO)

    def note(deed: Deed) -> None:
        who = {"scope": deed.scope, "client": deed.client, "request_id": deed.request_id}
        fields: dict[str, object] = {"action": deed.action, **deed.what, **deed.result, **who}
        what = "".join(f" {name}={_quoted(value)}" for name, value in deed.what.items())
        told = {name: _quoted(value) if " " in str(value) else value for name, value in deed.result.items()}
        rest = "".join(f" {name}={value}" for name, value in {**told, **who}.items() if value not in (None, ""))
        log, level = (refused, logging.WARNING) if deed.action == "refused" else (done, logging.INFO)
        log.log(level, "audit: %s%s%s", deed.action, what, rest, extra={"event": "audit", "fields": fields})

    return note


def _quoted(value: object) -> str:
    """What has spaces in it must not look like more fields."""
    return orjson.dumps(clean(str(value))).decode()
