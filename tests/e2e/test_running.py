"""The server as its operator and its neighbours see it: start, log, front gate, secrets, restart and the end."""

from __future__ import annotations

import json
import re
import socket
import sqlite3
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.harness.behaviours import Answer, busy, redirect
from tests.harness.fetch import Fetched
from tests.harness.index import JSON_V1
from tests.harness.packages import Distribution, wheel
from tests.harness.waiting import eventually
from tests.harness.world import HTML, World, fresh_name, listen, world

MIB = 1024 * 1024
CANARY = "canary5f2e"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One proxy that most tests share; it answers to its own addresses only."""
    settings = {"server": {"allowed_hosts": "127.0.0.1,localhost,example.com"}}
    with world(tmp_path_factory.mktemp("running"), settings) as made:
        yield made


# --- the start line and the log


def first_line(here: World) -> str:
    """The start line of a proxy that logs text."""
    return next(line for line in here.proxy.stderr.splitlines() if "PIP_INDEX_URL" in line)


@pytest.mark.parametrize(
    ("host", "trusted"),
    [
        ("127.0.0.1", False),
        pytest.param("127.0.0.2", False, marks=pytest.mark.skipif(sys.platform != "linux", reason="is not there")),
        ("0.0.0.0", True),
    ],
    ids=["this machine", "another loopback address", "everybody"],
)
def test_the_start_line(tmp_path: Path, host: str, trusted: bool) -> None:
    """Where it listens, which index, the exact variable to set, and PIP_TRUSTED_HOST where pip will need it."""
    with world(tmp_path, {"log": {"format": "text"}, "server": {"host": host}}) as here:
        line = first_line(here)
        assert f"listens on {host}:{here.proxy.port}" in line
        assert f"index test is {here.upstream.url}" in line
        shared = socket.gethostname() if trusted else host
        assert f"set PIP_INDEX_URL=http://{shared}:{here.proxy.port}/simple" in line
        assert f"PIP_TRUSTED_HOST={socket.gethostname()}" in line
        assert ("--host 0.0.0.0" in line) is not trusted
        # And the log for people: what, how it went, why, and the id that a client was told.
        with socket.create_connection((here.proxy.host, here.proxy.port), timeout=20) as connection:
            connection.sendall(b"GET /simple/nobody/?token=%s HTTP/1.0\r\nHost: x\r\n\r\n" % CANARY.encode())
            told = json.loads(listen(connection).body)["request_id"]
        eventually(lambda: told in here.proxy.stderr, "the request is logged")
        logged = next(line for line in here.proxy.stderr.splitlines() if told in line)
        assert re.search(r"GET /simple/nobody/ 404 missing \d+B [\d.]+ms \(the index has no such project\)", logged)
        assert CANARY not in here.proxy.stderr


@pytest.mark.parametrize("level", ["info", "warning", "error"])
@pytest.mark.parametrize("name", ["text", "json"])
def test_the_start_line_at_every_level(tmp_path: Path, name: str, level: str) -> None:
    """The port that was found for port 0 is always told; requests that went well only at level info."""
    with world(tmp_path, {"log": {"format": name, "level": level}}) as here:
        assert here.proxy.port
        assert f"listens on 127.0.0.1:{here.proxy.port}" in first_line(here) or name == "json"
        assert here.page("nobody").status == 404
        assert here.proxy.terminate() == 0
        assert ("/simple/nobody/" in here.proxy.stderr) is (level == "info")


def test_the_log_for_machines(here: World) -> None:
    """One JSON object for each request, with outcome and reason; no query, no header."""
    name = fresh_name()
    file = here.publish(wheel(name))
    here.proxy.forget()
    secret = {"Authorization": f"Basic {CANARY}", "Cookie": CANARY, "User-Agent": CANARY, "Referer": CANARY}
    for path in (f"/simple/{name}/?format={CANARY}", f"/simple/{name}/?x={CANARY}", f"/simple/{name}/"):
        here.get(path, secret)
    here.file(file, secret)
    here.file(file, {**secret, "Range": "bytes=0-9"})
    here.get(f"/simple/{name}", secret)
    lines = here.proxy.wait_for_log(lambda lines: len([line for line in lines if name in line.get("path", "")]) == 6)
    lines = [line for line in lines if name in line.get("path", "")]
    keys = "time level event method path status outcome because bytes seconds upstream_seconds collapsed aborted"
    assert all(set(keys.split()) <= set(line) for line in lines)
    assert [(line["status"], line["outcome"]) for line in lines[:4]] == [
        (406, "refused"),
        (200, "miss"),
        (200, "hit"),
        (200, "miss"),
    ]
    assert lines[4]["status"] == 206
    assert lines[4]["bytes"] == 10
    assert (lines[5]["status"], lines[5]["outcome"]) == (301, "moved")
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"]) for line in lines)
    assert all(line["because"] and "?" not in line["path"] for line in lines)
    assert CANARY not in here.proxy.stderr


def test_health(here: World) -> None:
    """/healthz says that the process answers, /readyz that it serves; no cache may keep either."""
    for path, status in (("/healthz", "alive"), ("/readyz", "ready")):
        got = here.get(path)
        assert (got.status, json.loads(got.body)["status"]) == (200, status)
        assert got.headers["cache-control"] == "no-store"
        assert here.get(path, method="HEAD").body == b""


# --- the front gate


def request_line(line: str, fields: str = "", host: str = "127.0.0.1") -> bytes:
    """A request that ends its connection."""
    return f"{line}\r\nHost: {host}\r\nConnection: close\r\n{fields}\r\n".encode("latin-1")


GATE = {
    "absolute form": (request_line("GET http://127.0.0.1/simple/six/ HTTP/1.1"), 400),
    "absolute form with a secret": (request_line(f"GET http://u:{CANARY}@example.com/ HTTP/1.1"), 400),
    "another scheme": (request_line("GET file:///etc/passwd HTTP/1.1"), 400),
    "authority form": (request_line("GET example.com:443 HTTP/1.1"), 400),
    "CONNECT": (request_line("CONNECT example.com:443 HTTP/1.1"), 400),
    "CONNECT to a path": (request_line("CONNECT /simple/ HTTP/1.1"), 405),
    "TRACE": (request_line("TRACE /simple/six/ HTTP/1.1", f"X-Secret: {CANARY}\r\n"), 405),
    "POST": (request_line("POST /simple/six/ HTTP/1.1"), 405),
    "PUT": (request_line("PUT /simple/six/ HTTP/1.1"), 405),
    "DELETE": (request_line("DELETE /simple/six/ HTTP/1.1"), 405),
    "PURGE": (request_line("PURGE /simple/six/ HTTP/1.1"), 405),
    "OPTIONS": (request_line("OPTIONS /simple/six/ HTTP/1.1"), 405),
    "lower-case method": (request_line("get /simple/six/ HTTP/1.1"), 400),
    "escaped slash": (request_line("GET /files/test/example.com%2fsix-1.0.tar.gz HTTP/1.1"), 400),
    "escaped backslash": (request_line("GET /simple/a%5cb/ HTTP/1.1"), 400),
    "escaped nul": (request_line("GET /simple/a%00/ HTTP/1.1"), 400),
    "escaped newline": (request_line("GET /simple/a%0a/ HTTP/1.1"), 400),
    "escaped return": (request_line("GET /simple/a%0D/ HTTP/1.1"), 400),
    "backslash": (request_line("GET /simple\\six/ HTTP/1.1"), 400),
    "double slash": (request_line("GET /simple//six/ HTTP/1.1"), 400),
    "leading double slash": (request_line("GET //example.com/simple/ HTTP/1.1"), 400),
    "dots": (request_line("GET /simple/../healthz HTTP/1.1"), 400),
    "one dot": (request_line("GET /simple/./six/ HTTP/1.1"), 400),
    "escaped dots": (request_line("GET /files/test/%2E%2e/six-1.0.tar.gz HTTP/1.1"), 400),
    "half escaped dots": (request_line("GET /files/test/.%2e/six-1.0.tar.gz HTTP/1.1"), 400),
    "octets": (request_line("GET /simple/\xe9/ HTTP/1.1"), 400),
    "control character": (request_line("GET /simple/a\x01b/ HTTP/1.1"), 400),
    "body": (request_line("GET /simple/six/ HTTP/1.1", "Content-Length: 5\r\n") + CANARY[:5].encode(), 400),
    "chunked body": (request_line("GET /simple/six/ HTTP/1.1", "Transfer-Encoding: chunked\r\n") + b"0\r\n\r\n", 400),
    "HTTP/2.0": (request_line("GET /healthz HTTP/2.0"), 505),
    "HTTP/1.2": (request_line("GET /healthz HTTP/1.2"), 400),
    "HTTP/0.9": (b"GET /healthz\r\n\r\n", 505),
    "another host": (request_line("GET /healthz HTTP/1.1", host=f"{CANARY}.example.com"), 421),
    "no host": (b"GET /healthz HTTP/1.0\r\n\r\n", 421),
    "host with userinfo": (request_line("GET /healthz HTTP/1.1", host=f"127.0.0.1@{CANARY}.example"), 421),
    "huge header": (request_line("GET /healthz HTTP/1.1", f"X-Big: {CANARY * 1000}\r\n"), 431),
    "huge line": (request_line(f"GET /simple/{CANARY * 500}/ HTTP/1.1"), 414),
    "no colon": (request_line("GET /healthz HTTP/1.1", f"{CANARY}\r\n"), 400),
    "folded": (request_line("GET /healthz HTTP/1.1", f"X-A: b\r\n {CANARY}\r\n"), 400),
    "space before colon": (request_line("GET /healthz HTTP/1.1", "X-A : b\r\n"), 400),
    "newlines alone": (f"GET /healthz HTTP/1.1\nHost: 127.0.0.1\nX: {CANARY}\n\n".encode(), 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n", 400),
}


@pytest.mark.parametrize("case", GATE)
def test_the_front_gate(here: World, case: str) -> None:
    """Refused before anything looks at it: a constant problem document, nothing reflected, no upstream asked."""
    said, status = GATE[case]
    before = len(here.upstream.log)
    got = here.say(said)
    assert got.status == status, got.data
    assert got.data.startswith(b"HTTP/1.")  # a version we speak, whatever was asked in
    assert got.headers["content-type"] == "application/problem+json"
    assert got.headers["x-content-type-options"] == "nosniff"
    document = json.loads(got.body)
    assert (document["status"], document["blame"], document["type"]) == (status, "client", "about:blank")
    assert {"title", "detail", "because", "request_id"} <= set(document)
    assert got.headers.get("allow") == ("GET, HEAD" if status == 405 else None)
    assert CANARY.encode() not in got.data
    assert CANARY not in here.proxy.stderr
    assert "Traceback" not in here.proxy.stderr
    assert len(here.upstream.log) == before


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:3143", "localhost:1", "example.com", "EXAMPLE.com:443"]
)
def test_hosts_that_are_served(here: World, host: str) -> None:
    """Those of ``allowed_hosts``, with any port."""
    assert here.say(request_line("GET /healthz HTTP/1.1", host=host)).status == 200


@pytest.fixture(scope="module")
def ported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A proxy with a port in its allowed hosts."""
    settings = {"server": {"allowed_hosts": "Example.com:3143, 127.0.0.1"}}
    with world(tmp_path_factory.mktemp("ported"), settings) as made:
        yield made


@pytest.mark.parametrize(
    ("host", "status"), [("example.com:3143", 200), ("EXAMPLE.com:3143", 200), ("example.com", 421),
                         ("example.com:80", 421), ("127.0.0.1:3143", 200), ("127.0.0.1", 200)],
)  # fmt: skip
def test_a_host_with_a_port(ported: World, host: str, status: int) -> None:
    """An entry of ``allowed_hosts`` that has a port is served with just this one."""
    assert ported.say(request_line("GET /healthz HTTP/1.1", host=host)).status == status


def test_one_connection_many_requests(here: World) -> None:
    """Pipelined requests get their answers in order, the refused one too."""
    paths = ("/healthz", "/simple/a%00b/", "/readyz")
    said = b"".join(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() for path in paths)
    got = here.say(said + request_line("GET /nothing HTTP/1.1"))
    assert re.findall(rb"HTTP/1\.1 (\d+)", got.data) == [b"200", b"400", b"200", b"404"]


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [(None, "application/problem+json"), (JSON_V1, "application/problem+json"), ("*/*", "application/problem+json"),
     (HTML, "text/plain; charset=utf-8"), (BROWSER, "text/plain; charset=utf-8")],
)  # fmt: skip
def test_problems(here: World, accept: str | None, media_type: str) -> None:
    """RFC 9457 for programs, one plain sentence for people; the id leads to the log line."""
    got = here.get("/nothing/here", {} if accept is None else {"Accept": accept})
    assert (got.status, got.headers["content-type"]) == (404, media_type)
    assert (got.headers["cache-control"], got.headers["x-content-type-options"]) == ("no-store", "nosniff")
    if media_type.startswith("text"):
        found = re.fullmatch(r"[A-Z][^<>\n]+ Request id: ([0-9a-f]{16})\n", got.body.decode())
        assert found is not None
        eventually(lambda: found[1] in here.proxy.stderr, "the request is logged")
    else:
        assert here.line(got)["because"] == json.loads(got.body)["because"]


# --- secrets


def everything_said(here: World, name: str, paths: list[str]) -> list[Fetched]:
    """The project's pages in each format, and these files, by GET and HEAD."""
    pages = [here.page(name, {"Accept": accept}) for accept in (JSON_V1, HTML)]
    files = [here.get(path, method=method) for path in paths for method in ("GET", "HEAD")]
    return [*pages, *files, here.get(f"{paths[0]}?{CANARY}")]


def rows_of(database: Path) -> list[tuple[Any, ...]]:
    """All rows of a store's database, the listings of pages left out: what is to be fetched must be known."""
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute("SELECT * FROM Cache WHERE key NOT LIKE 'listing|%'").fetchall()


def signed(here: World, file: Distribution, headers: Mapping[str, str]) -> Answer:
    """A page that links to the file with a signature in the query."""
    listed = {
        "filename": file.filename,
        "url": f"{here.upstream.index.url_of(file)}?X-Signature={CANARY}#{CANARY}",
        "hashes": {"sha256": file.sha256},
    }
    document = {"meta": {"api-version": "1.1"}, "name": file.project, "files": [listed], "versions": ["1.0"]}
    headers = {**headers, "Content-Type": JSON_V1, "Cache-Control": "max-age=60"}
    return Answer(status=200, body=json.dumps(document).encode(), headers=headers, without=("Content-Encoding",))


def test_secrets_of_the_upstream_stay_with_us(tmp_path: Path) -> None:
    """A signed file URL, cookies and error bodies: in no page, header, error, log line, file name or row."""
    with world(tmp_path) as here:
        good, bad = wheel("good", padding=70_000), wheel("bad")
        here.publish(good, bad)
        secrets = {"Set-Cookie": f"session={CANARY}", "WWW-Authenticate": CANARY, "Authentication-Info": CANARY}
        for file in (good, bad):
            here.script(file.project, redirect(f"/signed/{file.project}/?token={CANARY}"))
            here.upstream.script(f"/signed/{file.project}/", signed(here, file, secrets))
        here.script_file(good, Answer(headers=secrets))
        here.script_file(bad, Answer(status=503, body=CANARY.encode(), headers=secrets))
        said = everything_said(here, "good", [here.path_of(good)]) + everything_said(here, "bad", [here.path_of(bad)])
        assert {each.status for each in said} >= {200, 404, 503}
        for got in said:
            assert CANARY not in f"{got.headers}{got.body!r}"
        eventually(lambda: here.kept(good), "the file is kept")
        asked = [each.target for each in here.file_requests(good) if each.method == "GET"]
        assert asked == [f"{here.upstream.path_of(good)}?X-Signature={CANARY}"]
        assert here.proxy.terminate() == 0
        assert CANARY not in here.proxy.stderr
        for path in here.proxy.cache.rglob("*"):
            assert CANARY not in path.name
            if path.is_file() and not path.name.startswith("cache.db"):
                assert CANARY.encode() not in path.read_bytes()
        found = [row for each in here.proxy.cache.rglob("cache.db") for row in rows_of(each) if CANARY in repr(row)]
        assert found == []


# --- the end, and a new start


def test_a_restart_serves_from_disk(tmp_path: Path) -> None:
    """Page, metadata and file as before, ETags included, without one upstream request."""
    with world(tmp_path) as here:
        file = here.publish(wheel("six", padding=100_000))

        def all_three() -> list[Fetched]:
            return [here.page("six"), here.file(file, suffix=".metadata"), here.file(file)]

        first = all_three()
        eventually(lambda: here.kept(file), "the file is kept")
        here.proxy.restart()
        here.upstream.stop()
        again = all_three()
        assert all(each.hit for each in again)
        assert [(each.body, each.headers["etag"]) for each in again] == [
            (each.body, each.headers["etag"]) for each in first
        ]
        assert again[2].sha256 == file.sha256


def test_a_bad_day_leaves_no_trace_in_the_log(here: World) -> None:
    """Failures of upstreams and clients are one line each, never a traceback."""
    name = fresh_name()
    here.script(name, busy(500))
    assert here.page(name).status == 503
    with here.connect() as connection:
        connection.sendall(b"GET /simple/")
    assert "Traceback" not in here.proxy.stderr
