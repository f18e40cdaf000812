"""The log: one line per record that nobody can forge, whatever a client sends."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.events import Deed, Event
from proxy.log import (
    FIELD_LIMIT,
    LEVELS,
    JsonLines,
    TextLines,
    access_log,
    audit_log,
    clean,
    clean_line,
    set_up,
    start_line,
)
from proxy.sections import Log

FORMATS = ("text", "json")
# Surrogates are what aiohttp makes of bytes that are no UTF-8.
HOSTILE = "/a\r\n2026-01-01T00:00:00.000Z info forged\x1b[31m\u2028\u202e\udc80\0"


def event(**changes: Any) -> Event:
    """An ordinary request, changed."""
    fields: dict[str, object] = {
        "method": "GET",
        "path": "/simple/six/",
        "outcome": "miss",
        "because": "not cached",
        "status": 200,
        "sent": 1234,
        "seconds": 0.0123456789,
        "upstream_seconds": 0.01,
        "client": "127.0.0.1",
        "request_id": "0123456789abcdef",
    }
    return Event(**{**fields, **changes})


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    """Leaves the process's loggers as they were."""
    root, quiet = (
        logging.getLogger(),
        [logging.getLogger(name) for name in ("aiohttp", "asyncio", "proxy.start", "proxy.audit")],
    )
    handlers, level, levels = root.handlers[:], root.level, [each.level for each in quiet]
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for each, before in zip(quiet, levels, strict=True):
        each.setLevel(before)


def record(message: str, **extra: object) -> logging.LogRecord:
    """A record as a logger makes one."""
    made = logging.LogRecord("proxy", logging.WARNING, "", 0, message, (), None)
    made.created = 1767323045.5
    made.__dict__.update(extra)
    return made


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    """A line for people: what, how it went, how much, how long, why, who."""
    set_up("text", "info")
    access_log()(event(collapsed=True))
    (line,) = capsys.readouterr().err.splitlines(keepends=True)
    said = " info    GET /simple/six/ 200 miss collapsed 1234B 12.3ms (not cached) 127.0.0.1\n"
    assert line.endswith(said)
    assert len(line) == len("2026-01-02T03:04:05.678Z") + len(said)


def test_an_error_has_its_request_id(capsys: pytest.CaptureFixture[str]) -> None:
    """The problem document names it, and says that the log has the reason."""
    set_up("text", "info")
    access_log()(event(status=502, because="no connection"))
    assert capsys.readouterr().err.endswith("(no connection) 127.0.0.1 0123456789abcdef\n")


def test_an_error_tells_what_the_upstream_answered(capsys: pytest.CaptureFixture[str]) -> None:
    """In both formats; what went well needs no such note."""
    set_up("text", "info")
    access_log()(event(status=503, because="overloaded or broken", upstream_status=500))
    access_log()(event(upstream_status=200))
    failed, fine = capsys.readouterr().err.splitlines()
    assert " (overloaded or broken; upstream_status 500) " in failed
    assert "upstream_status" not in fine
    set_up("json", "info")
    access_log()(event(status=503, upstream_status=500))
    assert json.loads(capsys.readouterr().err)["upstream_status"] == 500


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    """A line for machines: every field of the event, under its own name."""
    set_up("json", "info")
    access_log()(event(aborted=True))
    (line,) = capsys.readouterr().err.splitlines()
    found = json.loads(line)
    assert found.pop("time").endswith("Z")
    assert found == {
        "level": "warning",
        "event": "request",
        "method": "GET",
        "path": "/simple/six/",
        "status": 200,
        "outcome": "miss",
        "because": "not cached",
        "bytes": 1234,
        "seconds": 0.012346,
        "upstream_seconds": 0.01,
        "upstream_status": None,
        "collapsed": False,
        "aborted": True,
        "client": "127.0.0.1",
        "request_id": "0123456789abcdef",
    }


@pytest.mark.parametrize(
    ("level", "status", "aborted", "logged"),
    [
        ("info", 200, False, True),
        ("info", 404, False, True),
        ("warning", 404, False, False),
        ("warning", 200, True, True),
        ("warning", 502, False, True),
        ("error", 502, True, False),
    ],
)
def test_levels(level: str, status: int, aborted: bool, logged: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """A failure or a body that was cut is a warning, everything else is info."""
    set_up("json", level)
    access_log()(event(status=status, aborted=aborted))
    assert bool(capsys.readouterr().err) is logged


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", FORMATS)
def test_the_start_line_is_always_written(name: str, level: str, capsys: pytest.CaptureFixture[str]) -> None:
    """At every level, or nobody could find port 0; the level of everything else stays what was set."""
    set_up(name, level)
    start_line().info("listens", extra={"event": "started", "fields": {"port": 1}})
    logging.getLogger("proxy").info("noise")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == (2 if level == "info" else 1)
    if name == "json":
        assert json.loads(lines[0]).items() >= {"level": "info", "event": "started", "port": 1}.items()
    else:
        assert lines[0].endswith(" info    listens")


def test_levels_are_those_of_the_settings() -> None:
    """What can be configured can be set up, and nothing else."""
    assert set(LEVELS) == set(get_args(Log.model_fields["level"].annotation))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("field", ["method", "path", "client"])
def test_no_line_can_be_forged(name: str, field: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Line ends, escapes, marks of direction and broken UTF-8 are escaped: one request, one printable line."""
    set_up(name, "info")
    access_log()(event(**{field: HOSTILE}))
    written = capsys.readouterr().err
    assert written.count("\n") == 1
    assert written.endswith("\n")
    assert written[:-1].isprintable()
    assert written.isascii()
    if name == "json":
        assert json.loads(written)[field] == clean(HOSTILE)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("character", ["a", "ä", "\0", "\U0001f600", "\U000e0001", "\udc80"])
def test_fields_are_cut(name: str, character: str, capsys: pytest.CaptureFixture[str]) -> None:
    """No field takes more than 512 bytes of a line, escapes included."""
    set_up(name, "info")
    access_log()(event(path="", client=""))
    least = len(capsys.readouterr().err.encode())
    access_log()(event(path=character * 4096, client=character * 4096))
    # JSON writes a backslash as two.
    most = 2 * FIELD_LIMIT * (2 if name == "json" else 1)
    assert len(capsys.readouterr().err.encode()) <= least + most + 8


@given(st.text(st.characters()))
@example("x" * FIELD_LIMIT)
@example("x" * (FIELD_LIMIT + 1))
@example("ä" * FIELD_LIMIT)
@example(HOSTILE)
def test_clean(text: str) -> None:
    """Printable, short, and unchanged where it was both."""
    cleaned = clean(text)
    assert cleaned.isprintable()
    assert len(cleaned.encode()) <= FIELD_LIMIT
    if text.isprintable() and len(text.encode()) <= FIELD_LIMIT:
        assert cleaned == text
    elif len(text.encode("utf-8", "surrogatepass")) > FIELD_LIMIT:
        assert cleaned.endswith("…")
    assert clean_line(cleaned) == cleaned


@pytest.mark.parametrize("name", FORMATS)
def test_messages_are_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A message of our own that repeats something foreign is escaped as well; an event keeps its fields."""
    set_up(name, "info")
    logging.getLogger("proxy").info("%s", HOSTILE)
    written = capsys.readouterr().err
    assert written.count("\n") == 1
    assert "forged" in written
    if name == "json":
        assert json.loads(written)["event"] == "message"
    logging.getLogger("proxy").info("stopping", extra={"event": "stopping"})
    written = capsys.readouterr().err
    assert "stopping" in written
    if name == "json":
        assert json.loads(written).items() >= {"event": "stopping", "message": "stopping"}.items()


def test_fields_of_every_kind() -> None:
    """Text in fields is cleaned, anything else stays what it is."""
    line = json.loads(JsonLines().format(record("x", event="started", fields={"port": 1, "dir": "a\nb", "on": True})))
    assert line == {
        "time": "2026-01-02T03:04:05.500Z",
        "level": "warning",
        "event": "started",
        "port": 1,
        "dir": "a\\nb",
        "on": True,
    }


@pytest.mark.parametrize("formatter", [JsonLines(), TextLines()])
def test_traces(formatter: logging.Formatter) -> None:
    """A trace is written, also when its exception repeats what is no Unicode text."""
    try:
        raise RuntimeError("no \udc80")
    except RuntimeError:
        info = sys.exc_info()
    written = formatter.format(record("failed", exc_info=info))
    assert "RuntimeError" in written
    if isinstance(formatter, JsonLines):
        assert "\n" not in written
        assert "Traceback" in json.loads(written)["trace"]
    else:
        assert written.splitlines()[0].endswith("failed")


def test_others_are_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    """What aiohttp and asyncio say at info is said better by our own lines."""
    set_up("text", "info")
    for name in ("aiohttp.access", "asyncio"):
        logging.getLogger(name).info("noise")
        logging.getLogger(name).warning("trouble")
    assert capsys.readouterr().err.count("\n") == 2


# --- the audit


def deed(**changes: Any) -> Deed:
    """A removal, changed."""
    fields: dict[str, object] = {
        "action": "remove",
        "what": {"pattern": "six", "index": "test"},
        "result": {"dry_run": False, "count": 2, "bytes": 10},
        "scope": "write",
        "client": "192.0.2.1",
        "request_id": "0123456789abcdef",
    }
    return Deed(**{**fields, **changes})


@pytest.mark.parametrize("level", LEVELS)
def test_a_change_is_noted_at_every_level(capsys: pytest.CaptureFixture[str], level: str) -> None:
    """Who removed what is found later, also where only errors are logged."""
    set_up("json", level)
    audit_log()(deed())
    line = json.loads(capsys.readouterr().err)
    assert line.pop("time")
    assert line == {
        "level": "info",
        "event": "audit",
        "action": "remove",
        "pattern": "six",
        "index": "test",
        "dry_run": False,
        "count": 2,
        "bytes": 10,
        "scope": "write",
        "client": "192.0.2.1",
        "request_id": "0123456789abcdef",
    }


@pytest.mark.parametrize(("level", "count"), [("info", 1), ("warning", 1), ("error", 0)])
def test_who_was_refused_is_a_warning(capsys: pytest.CaptureFixture[str], level: str, count: int) -> None:
    """As often as a stranger likes, so it obeys the level."""
    set_up("json", level)
    audit_log()(deed(action="refused", what={"method": "GET"}, result={"status": 401}, scope=""))
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["level"], line["action"], line["status"]) for line in lines] == [("warning", "refused", 401)] * count


def test_a_reason_of_several_words_is_one_field(capsys: pytest.CaptureFixture[str]) -> None:
    """In quotes, like whatever else may have spaces in it."""
    set_up("text", "info")
    audit_log()(deed(action="refused", what={}, result={"status": 401, "because": "a token is needed here"}, scope=""))
    assert ' status=401 because="a token is needed here" client=' in capsys.readouterr().err


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("pattern", [HOSTILE, 'six" scope="write', "x" * 4000, "six client=192.0.2.9"])
def test_a_pattern_forges_nothing(capsys: pytest.CaptureFixture[str], format_name: str, pattern: str) -> None:
    """One line, and what the client said stays inside its quotes."""
    set_up(format_name, "info")
    audit_log()(deed(what={"pattern": pattern}))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable()
    assert len(line) < 2 * FIELD_LIMIT
    if format_name == "text":
        assert re.sub(r'"(\\.|[^"\\])*"', '""', line).split()[1:] == [
            "info", "audit:", "remove", 'pattern=""', "dry_run=False", "count=2", "bytes=10", "scope=write",
            "client=192.0.2.1", "request_id=0123456789abcdef",
        ]  # fmt: skip
    else:
        assert json.loads(line)["scope"] == "write"
