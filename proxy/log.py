"""The log: one line per request and per message on stderr, plain for a terminal or JSON for machines.

Fields are cut at 512 bytes and control characters are escaped, so no client can forge a line; there are no query
strings and no headers in it. Lines of warm answers wait for each other a moment, so that not each of them is a write.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import sys
import time
from collections import deque
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, TextIO

import orjson

from proxy.events import Again, Auditor, Deed, Event, Repeating

FIELD_LIMIT = 512
MOMENT = 0.05
"""Seconds that a line waits for others at most: a crash loses so much of them."""
# So few that a client whose answer is next hardly waits for the lines of others: p99 is half of that with 500.
_TOGETHER = 64
_THOUSANDTHS = tuple(f".{number:03d}Z" for number in range(1000))
LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def clean(text: str) -> str:
    """Text made safe for one field of one line."""
    safe = clean_line(text[: FIELD_LIMIT + 1])
    encoded = safe.encode()
    return safe if len(encoded) <= FIELD_LIMIT else f"{encoded[: FIELD_LIMIT - 3].decode(errors='ignore')}…"


def _stamp(seconds: float) -> str:
    second = int(seconds)
    return f"{_to_the_second(second)}{_THOUSANDTHS[int((seconds - second) * 1000)]}"


@lru_cache(maxsize=2)
def _to_the_second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


_Line = Callable[[str, float, str, str], str]
"""A line of an answer that was at hand: its time, its seconds, its client, a request id."""


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


class Lines(logging.StreamHandler[TextIO]):
    """Writes records to a stream at once, and what waits before them: lines stay in their order."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._waiting: deque[tuple[_Line, float, float, str]] = deque()
        self._due: asyncio.TimerHandle | None = None

    def later(self, line: _Line, now: float, seconds: float, client: str) -> None:
        """Make that line, and write it with others, soon. Of the event loop."""
        waiting = self._waiting
        waiting.append((line, now, seconds, client))
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(MOMENT, self._now)
        elif len(waiting) >= _TOGETHER:
            self._due.cancel()
            self._now()

    def emit(self, record: logging.LogRecord) -> None:
        """Write what waits, and the record."""
        self._let_go()
        super().emit(record)

    def flush(self) -> None:
        """Also at the end of the process."""
        self._let_go()
        super().flush()

    def _now(self) -> None:
        self._due = None
        self.acquire()
        try:
            self.flush()
        except OSError:
            pass  # as logging does where it raises nothing: nobody is left to be told
        finally:
            self.release()

    def _let_go(self) -> None:
        if not self._waiting:
            return
        waiting = [self._waiting.popleft() for _ in range(len(self._waiting))]  # of any thread, while others are added
        ids, lines, second, stamp, start = secrets.token_hex(8 * len(waiting)), [], -1, "", 0
        for line, now, seconds, client in waiting:
            if int(now) != second:
                second = int(now)
                stamp = _to_the_second(second)
            stop = start + 16
            lines.append(line(stamp + _THOUSANDTHS[int((now - second) * 1000)], seconds, client, ids[start:stop]))
            start = stop
        lines.append("")
        self.stream.write("\n".join(lines))


def set_up(format_name: str, level: str) -> None:
    """Send all that is logged to stderr in that format (``text`` or ``json``) from that level on."""
    handler = Lines(sys.stderr)
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


class AccessLog:
    """An observer that logs each request."""

    def __init__(self) -> None:
        self._log = logging.getLogger("proxy.access")

    def __call__(self, event: Event) -> None:
        """One line."""
        level = logging.WARNING if event.status >= 500 or event.aborted else logging.INFO
        if not self._log.isEnabledFor(level):
            return
        fields = _always(event) | {
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
        self._log.log(
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

    def like(self, event: Event) -> Again:
        """The same for answers that nothing was asked for, and that nothing went wrong with."""
        handler = next((each for each in logging.getLogger().handlers if isinstance(each, Lines)), None)
        if handler is None or not self._log.isEnabledFor(logging.INFO):
            return _nothing
        make = _json_like(event) if isinstance(handler.formatter, JsonLines) else _text_like(event)
        return partial(handler.later, make)


def _json_like(event: Event) -> _Line:
    said: dict[str, object] = {"level": "info", "event": "request"}
    said |= {name: clean(each) if isinstance(each, str) else each for name, each in _always(event).items()}
    before = f'",{orjson.dumps(said).decode()[1:-1]},"seconds":'
    between = ',"upstream_seconds":0.0,"upstream_status":null,"collapsed":false,"aborted":false,"client":'
    return lambda stamp, seconds, client, request_id: (
        f'{{"time":"{stamp}{before}{seconds:.6f}{between}{_told(client)},"request_id":"{request_id}"}}'
    )


def _text_like(event: Event) -> _Line:
    start = clean_line(f"{clean(event.method)} {clean(event.path)} {event.status} {event.outcome} {event.sent}B ")
    end = clean_line(f"ms ({event.because}) ")
    return lambda stamp, seconds, client, _: (
        f"{stamp} info    {start}{seconds * 1000:.1f}{end}{clean_line(clean(client))}"
    )


@lru_cache(maxsize=256)
def _told(client: str) -> str:
    return orjson.dumps(clean(client)).decode()


def _always(event: Event) -> dict[str, object]:
    """What is the same for all answers that are alike."""
    return {
        "method": event.method,
        "path": event.path,
        "status": event.status,
        "outcome": event.outcome,
        "because": event.because,
        "bytes": event.sent,
    }


def _nothing(now: float, seconds: float, client: str) -> None:
    pass


def access_log() -> Repeating:
    """An observer that logs each request."""
    return AccessLog()


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
