"""The admin API as operators use it and as strangers try it, over real sockets: routes, statuses, walls, streams."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.harness.behaviours import Answer
from tests.harness.fetch import Fetched
from tests.harness.packages import Distribution, blob, sdist, wheel
from tests.harness.waiting import eventually
from tests.harness.world import World, fresh_name, world

WRITE, READ = "write-canary5f2e-0123456789abcdefghij", "read-canary5f2e-0123456789abcdefghij"
CANARY, MIRRORED = "canary5f2e", "mirrored7c1d"
ROUTES = ("dir", "info", "list", "explain?path=/simple/")
PROBLEM = "application/problem+json"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One proxy with a token of each scope; it answers to its own addresses only, and to example.com."""
    settings: dict[str, dict[str, Any]] = {
        "server": {"allowed_hosts": ["127.0.0.1", "localhost", "example.com"]},
        "admin": {"token": WRITE, "read_token": READ},
    }
    with world(tmp_path_factory.mktemp("admin"), settings) as made:
        yield made
        assert CANARY not in made.proxy.stderr


def new_name() -> str:
    """A project that nobody had before; without "-", with which a pattern would glob names of files."""
    return fresh_name().replace("-", "")


def bearer(token: str = WRITE) -> dict[str, str]:
    """The field that shows a token."""
    return {"Authorization": f"Bearer {token}"}


def ask(here: World, path: str, token: str | None = WRITE, headers: Mapping[str, str] | None = None) -> Fetched:
    """A GET below /admin/cache/."""
    return here.get(f"/admin/cache/{path}", {**({} if token is None else bearer(token)), **(headers or {})})


def tell(here: World, verb: str, document: object = None, token: str | None = WRITE, **headers: str) -> Fetched:
    """A POST; without a document it has no body."""
    body = None if document is None else json.dumps(document).encode()
    fields = {**({} if token is None else bearer(token)), **headers}
    return here.get(f"/admin/cache/{verb}", fields, "POST", body=body)


def told(answer: Fetched) -> Any:
    """The document of an answer that worked."""
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json"), answer
    assert answer.complete
    return json.loads(answer.body)


def cached(here: World, *files: Distribution) -> Distribution:
    """Published, and fetched once through the proxy; the first of them."""
    here.publish(*files)
    for file in files:
        assert here.page(file.project).status == 200
        assert here.file(file).status == 200
    listed = {file.filename for file in files}
    eventually(lambda: set().union(*(names(here, project=file.project) for file in files)) >= listed, "all rows")
    return files[0]


def names(here: World, **query: str) -> set[str]:
    """The file names that ``list`` has."""
    text = "&".join(f"{name}={value}" for name, value in query.items())
    return {file["filename"] for file in told(ask(here, f"list?{text}"))["files"]}


# --- statuses


@pytest.mark.parametrize(
    ("method", "path", "token", "status"),
    [
        *(("GET", f"/admin/cache/{route}", None, 401) for route in ROUTES),
        *(("GET", f"/admin/cache/{route}", "x" * 40, 403) for route in ROUTES),
        *(("GET", f"/admin/cache/{route}", READ, 200) for route in ROUTES),
        *(("HEAD", f"/admin/cache/{route}", WRITE, 200) for route in ROUTES),
        ("HEAD", "/admin/cache/dir", None, 401),
        ("GET", "/admin/openapi.json", None, 401),
        ("GET", "/admin/openapi.json", READ, 200),
        *(("POST", f"/admin/cache/{verb}", None, 401) for verb in ("remove", "purge", "refresh")),
        *(("POST", f"/admin/cache/{verb}", "x" * 40, 403) for verb in ("remove", "purge", "refresh")),
        *(("POST", f"/admin/cache/{verb}", READ, 403) for verb in ("remove", "purge", "refresh")),
        *(("GET", f"/admin/cache/{verb}", WRITE, 405) for verb in ("remove", "purge", "refresh")),
        ("HEAD", "/admin/cache/purge", READ, 405),
        ("PUT", "/admin/cache/purge", WRITE, 405),
        ("POST", "/admin/cache/list", WRITE, 405),
        ("DELETE", "/admin/cache/list", READ, 405),
        ("DELETE", "/admin/cache/list", None, 401),
        ("OPTIONS", "/admin/cache/list", None, 401),
        ("OPTIONS", "/admin/cache/list", READ, 405),
        ("POST", "/admin/cache/remove", WRITE, 400),
        ("POST", "/admin/cache/refresh", WRITE, 400),
        ("GET", "/admin/cache/explain", READ, 400),
        ("GET", "/admin/cache/dir?x=1", READ, 400),
        ("GET", "/admin/cache/list?limit=0", READ, 400),
        ("GET", "/admin/cache/list?cursor=W10", READ, 400),
        ("GET", f"/admin/cache/list?token={WRITE}", None, 401),
        ("GET", f"/admin/cache/list?access_token={WRITE}", READ, 400),
        ("GET", "/admin", None, 401),
        ("GET", "/admin", READ, 404),
        ("GET", "/admin/", None, 401),
        ("GET", "/admin/", WRITE, 404),
        ("GET", "/admin/cache/dir/", WRITE, 404),
        ("GET", "/admin/cache/", WRITE, 404),
        ("POST", f"/admin/{MIRRORED}", None, 401),
        ("POST", f"/admin/{MIRRORED}", WRITE, 404),
        ("GET", "/admin/cache/%64ir", WRITE, 404),
        ("POST", "/simple/", WRITE, 405),
        ("POST", "/healthz", WRITE, 405),
    ],
)
def test_statuses(here: World, method: str, path: str, token: str | None, status: int) -> None:
    """A token first, then a path, a method, a scope, a question; refusals are problems, and nothing is stored."""
    answer = here.get(path, None if token is None else bearer(token), method)
    assert answer.status == status
    assert answer.headers["cache-control"] == "no-store"
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert answer.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
    if method == "HEAD":
        assert answer.body == b""
    elif status != 200:
        assert answer.headers["content-type"] == PROBLEM
        document = json.loads(answer.body)
        assert (document["status"], document["blame"]) == (status, "client")
        assert not [word for word in (CANARY, MIRRORED) if word.encode() in answer.body]


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/admin/cache/list", "GET, HEAD"),
        ("/admin/openapi.json", "GET, HEAD"),
        ("/admin/cache/purge", "POST"),
        ("/simple/", "GET, HEAD"),
    ],
)
def test_a_405_says_what_is_allowed(here: World, path: str, allowed: str) -> None:
    """RFC 9110 §15.5.6."""
    answer = here.get(path, bearer(), "PATCH")
    assert (answer.status, answer.headers["allow"]) == (405, allowed)


def test_a_person_reads_a_sentence(here: World) -> None:
    """Whoever opens it in a browser is told what is missing, and is asked for no password by a dialogue."""
    answer = ask(here, "list", None, {"Accept": "text/html,*/*;q=0.8"})
    assert (answer.status, answer.headers["content-type"]) == (401, "text/plain; charset=utf-8")
    assert b"admin.token" in answer.body


@pytest.mark.parametrize(
    "fields",
    [
        {"Origin": "http://example.org"},
        {"Origin": "null"},
        {"Origin": "http://example.com"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
@pytest.mark.parametrize("token", [WRITE, None])
def test_pages_of_other_sites(here: World, fields: dict[str, str], token: str | None) -> None:
    """They get nothing to read and nothing done, whatever token they came by: it is not looked at."""
    assert ask(here, "dir", token, fields).status == 403
    assert tell(here, "purge", {"dry_run": True}, token, **fields).status == 403


def test_a_page_of_our_own(here: World) -> None:
    """Same origin, by the name that the browser has for us."""
    own = {"Origin": here.proxy.url, "Sec-Fetch-Site": "same-origin"}
    assert tell(here, "purge", {"dry_run": True}, **own).status == 200
    named = {"Host": "example.com", "Origin": "http://example.com"}
    assert ask(here, "dir", headers=named).status == 200
    assert ask(here, "dir", headers={"Sec-Fetch-Site": "none"}).status == 200


def test_a_name_that_is_not_ours(here: World) -> None:
    """421 before anything else: DNS rebinding makes a foreign page same-origin."""
    for token in (WRITE, None):
        answer = ask(here, "dir", token, {"Host": "example.org", "Origin": "http://example.org"})
        assert answer.status == 421


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[" * 60_000, 400),
        (f'{{"pattern": "x", "{CANARY}": 1}}'.encode(), 400),
        (f'{{"pattern": ["{CANARY}"]}}'.encode(), 400),
        (f'{{"pattern": "x", "kind": "{CANARY}"}}'.encode(), 400),
        (b'{"pattern": "' + b"x" * 70_000 + b'"}', 413),
    ],
)
def test_bad_bodies(here: World, body: bytes, status: int) -> None:
    """Told by the field's name where it is one of ours, and nothing of what was sent."""
    answer = here.get("/admin/cache/remove", bearer(), "POST", body=body)
    assert answer.status == status
    assert CANARY.encode() not in answer.body
    assert b"xxx" not in answer.body


def test_an_encoded_body(here: World) -> None:
    """Nothing small becomes large here."""
    assert tell(here, "purge", {"dry_run": True}, **{"Content-Encoding": "gzip"}).status == 415


def test_two_tokens_are_none(here: World) -> None:
    """One Authorization field counts; with two nobody knows which a neighbour looked at."""
    line = f"Authorization: Bearer {WRITE}\r\n"
    request = f"GET /admin/cache/dir HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{line}"
    assert here.say(f"{request}\r\n").status == 200
    assert here.say(f"{request}{line}\r\n").status == 401


def test_a_connection_survives_a_refusal(here: World) -> None:
    """The body of a refused request is no request: the next one on that connection gets its own answer."""
    body = b'{"dry_run": true}GET /healthz HTTP/1.1\r\n\r\n'
    refused = b"POST /admin/cache/purge HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    last = (
        f"GET /admin/cache/dir HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {READ}\r\nConnection: close\r\n\r\n"
    )
    answers = here.say(refused + last.encode()).data.split(b"HTTP/1.1 ")[1:]
    assert [each[:3] for each in answers] == [b"401", b"200"]


def test_one_length_is_enough(here: World) -> None:
    """Length and chunks together are how requests are smuggled (RFC 9112 §6.3)."""
    head = f"POST /admin/cache/purge HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {WRITE}\r\n"
    both = f"{head}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    assert here.say(both).status == 400
    assert here.say(f"{head}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n").status == 400
    assert here.say(f"{head}Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\n{{}}").status == 400


# --- what is told


def test_dir(here: World) -> None:
    """As ``pip cache dir``."""
    assert told(ask(here, "dir", READ)) == {"dir": str(here.proxy.cache)}


def test_info(here: World) -> None:
    """Counts and bytes agree with the disk; hits and misses are those of the data plane."""
    file = cached(here, wheel(new_name()), sdist(new_name()))
    before = told(ask(here, "info"))
    assert here.file(file).hit
    info = told(ask(here, "info", READ))
    assert info["hits"] == before["hits"] + 1
    assert info["misses"] == before["misses"]
    assert 0 < info["hit_ratio"] < 1
    on_disk = here.proxy.stored()
    assert info["wheels"]["count"] + info["sdists"]["count"] == len(on_disk)
    assert info["wheels"]["bytes"] + info["sdists"]["bytes"] == sum(path.stat().st_size for path in on_disk)
    assert info["sdists"]["count"] == sum(path.name.endswith(".tar.gz") for path in on_disk)
    assert info["responses"]["count"] > 0
    assert info["dir"] == str(here.proxy.cache)
    assert info["locations"] == {room: f"{here.proxy.cache}/{room}" for room in ("wheels", "responses", "mounts")}
    assert info["limits"] == {
        "max_size": 20 * 10**9,
        "responses_max_size": 2 * 10**9,
        "mounts_max_size": 10 * 10**9,
        "min_free": 10**9,
    }
    assert info["free"] > 0
    assert info["degraded"] is None


def test_list_tells_all_of_a_file(here: World) -> None:
    """Everything that ``pip cache list`` tells, and where it came from."""
    name = new_name()
    file = cached(here, wheel(name, "1.5"))
    answer = told(ask(here, f"list?pattern={name}", READ))
    (row,) = answer["files"]
    assert answer["cursor"] is None
    path = here.proxy.cache / row.pop("path")
    assert (path.name, path.stat().st_size) == (file.filename, file.size)
    stored, used = row.pop("stored"), row.pop("last_used")
    assert stored.endswith("Z")
    assert used >= stored
    assert row == {
        "project": name,
        "version": "1.5",
        "filename": file.filename,
        "kind": "wheel",
        "what": "file",
        "size": file.size,
        "sha256": file.sha256,
        "index": "test",
        "url": f"http://{here.upstream.location(file)}",
    }


def test_list_by_pattern_and_filter(here: World) -> None:
    """pip's patterns over names of wheels; sdists by their project; filters narrow both; responses when asked for."""
    name = new_name()
    one, two, source = wheel(name, "1.0"), wheel(name, "2.0"), sdist(name, "1.0")
    cached(here, one, two, source)
    glob = one.filename.partition("-py3")[0]
    everything = {one.filename, two.filename, source.filename}
    assert names(here, pattern=name) == everything
    assert names(here, project=name.upper().replace("-", "_")) == everything
    assert names(here, pattern=glob) == {one.filename}
    assert names(here, project=name, kind="sdist") == {source.filename}
    assert names(here, project=name, version="2") == {two.filename}
    assert names(here, project=name, index="elsewhere") == set()
    assert names(here, pattern="no-such-thing") == set()
    found = told(ask(here, f"list?project={name}&kind=response"))["files"]
    assert {file["kind"] for file in found} == {"response"}
    assert "page" in {file["what"] for file in found}
    both = told(ask(here, f"list?project={name}&kind=response&kind=wheel"))["files"]
    assert {file["kind"] for file in both} == {"response", "wheel"}


def test_list_by_pages(here: World) -> None:
    """Every file is on one page, in the order of the whole; the last cursor is null, also on an even end."""
    name = new_name()
    cached(here, *(wheel(name, f"1.{number}") for number in range(6)))
    whole = [file["filename"] for file in told(ask(here, f"list?project={name}"))["files"]]
    assert len(whole) == 6
    for limit in (1, 2, 4, 6, 7):
        pages, cursor = [], ""
        for _ in range(7):
            page = told(ask(here, f"list?project={name}&limit={limit}{cursor}"))
            pages.append([file["filename"] for file in page["files"]])
            if page["cursor"] is None:
                break
            cursor = f"&cursor={page['cursor']}"
        assert [each for page in pages for each in page] == whole
        assert [len(page) for page in pages[:-1]] == [limit] * (len(pages) - 1)
        assert len(pages) == -(-6 // limit)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_list_streams(here: World, version: str) -> None:
    """In chunks, and to a client of HTTP/1.0 until the connection ends; whole documents both."""
    cached(here, wheel(new_name()))
    fields = f"Host: localhost\r\nConnection: close\r\nAuthorization: Bearer {READ}"
    answer = here.say(f"GET /admin/cache/list HTTP/{version}\r\n{fields}\r\n\r\n")
    assert (answer.status, answer.reset) == (200, False)
    assert "content-length" not in answer.headers
    assert (answer.headers.get("transfer-encoding") == "chunked") == (version == "1.1")
    if version == "1.0":
        assert json.loads(answer.body)["files"]


@pytest.mark.parametrize("path", ["/admin/cache/dir", "/admin/cache/info", "/admin/cache/list", "/admin/openapi.json"])
def test_head_has_the_head_alone(here: World, path: str) -> None:
    """As GET would have it (RFC 9110 §9.3.2); the length where there is one."""
    fields = f"Host: localhost\r\nConnection: close\r\nAuthorization: Bearer {READ}"
    answer = here.say(f"HEAD {path} HTTP/1.1\r\n{fields}\r\n\r\n")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["content-type"] == "application/json"
    assert (int(answer.headers.get("content-length", 0)) > 0) == (path != "/admin/cache/list")


def test_explain(here: World) -> None:
    """What a client with these headers would get, without asking anybody."""
    name = new_name()
    file = wheel(name)
    here.publish(file)
    unknown = told(ask(here, f"explain?path=/simple/{name}/", READ))
    assert (unknown["decision"], unknown["asks_upstream"], unknown["stored"]) == ("fetch", True, None)
    assert here.page(name).status == 200
    asked = len(here.upstream.log)
    page = told(ask(here, f"explain?path=/simple/{name}/&method=HEAD&header=Accept:%20text/html&header=X-Y:z"))
    assert (page["kind"], page["decision"], page["outcome"], page["status"]) == ("page", "serve", "hit", 200)
    assert page["because"]
    assert page["project"] == name
    assert ["Content-Type", "text/html; charset=utf-8"] in page["headers"]
    assert page["stored"]["received_at"].endswith("Z")
    listed = told(ask(here, f"explain?path={here.path_of(file)}"))
    assert (listed["kind"], listed["asks_upstream"]) == ("file", True)
    assert listed["listed"]["pin"] == f"sha256={file.sha256}"
    wanted = told(ask(here, f"explain?path=/simple/{name}/?format=application/vnd.pypi.simple.v1%252Bjson"))
    assert ["Content-Type", "application/vnd.pypi.simple.v1+json"] in wanted["headers"]
    assert told(ask(here, "explain?path=/healthz"))["decision"] == "operation"
    assert told(ask(here, "explain?path=/simple//"))["status"] == 400
    assert len(here.upstream.log) == asked


# --- what is changed


def test_refresh(here: World) -> None:
    """One question to the upstream, however fresh the page is; a new file is there at once."""
    name = new_name()
    here.publish(wheel(name, "1.0"))
    assert here.page(name).status == 200
    same = told(tell(here, "refresh", {"project": name.upper()}))
    assert (same["outcome"], same["status"], same["files"]) == ("unchanged", 304, 1)
    here.publish(wheel(name, "2.0"))
    new = told(tell(here, "refresh", {"project": name, "index": "test"}))
    assert (new["index"], new["project"], new["outcome"], new["status"], new["files"]) == (
        "test", name, "refreshed", 200, 2,
    )  # fmt: skip
    assert b"-2.0-" in here.page(name).body
    assert len(here.page_requests(name)) == 3
    assert told(tell(here, "refresh", {"project": new_name()}))["outcome"] == "missing"


@pytest.mark.parametrize(
    ("document", "status"),
    [({"project": "six", "index": "elsewhere"}, 404), ({"project": "-six"}, 400), ({"project": "six", "x": 1}, 400)],
)
def test_a_refresh_of_nothing(here: World, document: object, status: int) -> None:
    """An index that is not there, a name that is none."""
    assert tell(here, "refresh", document).status == status


def test_a_refresh_that_fails(here: World) -> None:
    """The upstream's fault is told as one."""
    name = new_name()
    here.script(name, Answer(status=401))
    answer = tell(here, "refresh", {"project": name})
    assert (answer.status, json.loads(answer.body)["blame"]) == (502, "upstream")


def test_remove(here: World) -> None:
    """A dry run tells what would go; the removal does it, frees what it said, and the next install fetches again."""
    name = new_name()
    one, two, source = wheel(name, "1.0"), wheel(name, "2.0"), sdist(name, "1.0")
    cached(here, one, two, source)
    before = told(ask(here, "info"))
    plan = told(tell(here, "remove", {"pattern": name, "dry_run": True}))
    assert {file["filename"] for file in plan["removed"]} == {one.filename, two.filename, source.filename}
    size = one.size + two.size + source.size
    assert (plan["count"], plan["bytes"], plan["directories"], plan["dry_run"]) == (3, size, 0, True)
    assert told(ask(here, "info"))["wheels"] == before["wheels"]
    assert all(map(here.kept, (one, two, source)))
    part = told(tell(here, "remove", {"pattern": "*", "project": name, "version": "2.0", "kind": "wheel"}))
    assert [file["filename"] for file in part["removed"]] == [two.filename]
    done = told(tell(here, "remove", {"pattern": name}))
    assert (done["count"], done["bytes"], done["dry_run"]) == (2, one.size + source.size, False)
    assert done["directories"] > 0
    after = told(ask(here, "info"))
    assert before["wheels"]["bytes"] - after["wheels"]["bytes"] == one.size + two.size
    assert before["sdists"]["bytes"] - after["sdists"]["bytes"] == source.size
    assert not any(map(here.kept, (one, two, source)))
    assert names(here, pattern=name) == set()
    assert told(tell(here, "remove", {"pattern": name}))["count"] == 0
    assert here.file(one).sha256 == one.sha256
    assert len(here.file_requests(one)) == 2


def test_purge(tmp_path: Path) -> None:
    """Everything, responses too; what is asked for then is fetched again."""
    with world(tmp_path, {"admin": {"token": WRITE}}) as here:
        file = cached(here, wheel("six"))
        plan = told(tell(here, "purge", {"dry_run": True}))
        assert {each["kind"] for each in plan["removed"]} == {"wheel", "response"}
        assert here.kept(file)
        done = told(tell(here, "purge"))
        assert (done["count"], done["bytes"], done["dry_run"]) == (plan["count"], plan["bytes"], False)
        info = told(ask(here, "info"))
        assert [info[kind] for kind in ("wheels", "sdists", "responses")] == [{"count": 0, "bytes": 0}] * 3
        assert here.proxy.stored() == []
        assert here.page("six").status == 200
        assert here.file(file).sha256 == file.sha256
        assert len(here.page_requests("six")) == 2
        told(tell(here, "remove", {"pattern": "*"}))
        assert told(ask(here, "info"))["responses"]["count"] == 0


def test_a_client_that_leaves_stops_nothing(here: World) -> None:
    """Half a removal is nothing anybody wants: it goes on to its end, and into the audit."""
    name = new_name()
    cached(here, *(blob(name, f"1.{number}", size=100) for number in range(8)))
    body = json.dumps({"pattern": name})
    head = f"POST /admin/cache/remove HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {WRITE}\r\n"
    with here.connect() as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    lines = here.proxy.wait_for_log(lambda lines: [each for each in audited(lines) if each.get("pattern") == name])
    (line,) = [each for each in audited(lines) if each.get("pattern") == name]
    assert line["count"] == 8
    assert names(here, pattern=name) == set()


# --- the audit


def audited(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of the audit."""
    return [line for line in lines if line.get("event") == "audit"]


def test_changes_are_audited(here: World) -> None:
    """What, how much, by which scope, from where; a dry run says that it was one."""
    name = new_name()
    file = cached(here, wheel(name))
    document = {"pattern": name, "index": "test", "kind": ["wheel", "sdist"], "dry_run": True}
    tell(here, "remove", document)
    tell(here, "remove", {**document, "dry_run": False})
    tell(here, "refresh", {"project": name})
    mine = [
        line for line in audited(here.proxy.log_lines("audit")) if name in (line.get("pattern"), line.get("project"))
    ]
    for line in mine:
        assert line.pop("time")
        assert len(line.pop("request_id")) == 16
    common = {"level": "info", "event": "audit", "scope": "write", "client": "127.0.0.1"}
    removal = {**common, "action": "remove", "pattern": name, "index": "test", "kind": "wheel,sdist"}
    assert mine == [
        {**removal, "dry_run": True, "count": 1, "bytes": file.size},
        {**removal, "dry_run": False, "count": 1, "bytes": file.size},
        {**common, "action": "refresh", "project": name, "outcome": "unchanged", "status": 304},
    ]


def test_a_failed_change_is_audited(here: World) -> None:
    """Somebody wanted it, and it did not come to pass."""
    name = new_name()
    here.script(name, Answer(status=401))
    assert tell(here, "refresh", {"project": name}).status == 502
    (line,) = [line for line in here.proxy.log_lines("audit") if line.get("project") == name]
    assert line["failed"]


def test_refusals_are_audited(here: World) -> None:
    """A warning with the address, and nothing of what was shown."""
    attempts = (
        (ask(here, "dir", None), 401, ""),
        (ask(here, "dir", f"{CANARY}-{'x' * 32}"), 403, ""),
        (tell(here, "purge", None, READ), 403, "read"),
        (ask(here, "dir", WRITE, {"Origin": "http://example.org"}), 403, ""),
    )
    for answer, status, scope in attempts:
        wanted = json.loads(answer.body)["request_id"]
        (line,) = [each for each in here.proxy.log_lines("audit") if each["request_id"] == wanted]
        assert (line["level"], line["action"], line["status"]) == ("warning", "refused", status)
        assert (line["scope"], line["client"]) == (scope, "127.0.0.1")


# --- the OpenAPI document


def test_openapi(here: World) -> None:
    """Of this server, with every route, a scheme for the token, and no word that leads nowhere."""
    document = told(here.get("/admin/openapi.json", bearer(READ)))
    assert document["openapi"] == "3.1.0"
    assert document["servers"] == [{"url": here.proxy.url}]
    assert document["security"] == [{"token": []}]
    verbs = ("dir", "info", "list", "explain", "remove", "purge", "refresh")
    assert set(document["paths"]) == {f"/admin/cache/{verb}" for verb in verbs} | {"/admin/openapi.json"}
    for reference in _references(document):
        found: Any = document
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]
        assert found
    for path, operations in document["paths"].items():
        for method in ("GET", "POST"):
            answer = here.get(path, bearer(READ), method)
            assert (answer.status == 405) == (method.lower() not in operations)


def test_openapi_says_the_bounds(here: World) -> None:
    """Of numbers, too, in the words of JSON schema."""
    document = told(here.get("/admin/openapi.json", bearer(READ)))
    (limit,) = (each for each in document["paths"]["/admin/cache/list"]["get"]["parameters"] if each["name"] == "limit")
    assert (limit["schema"]["minimum"], limit["schema"]["maximum"]) == (1, 100_000)


def _references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        yield from (value for name, value in part.items() if name == "$ref")
        for value in part.values():
            yield from _references(value)
    elif isinstance(part, list):
        for value in part:
            yield from _references(value)
