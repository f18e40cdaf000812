"""The fast lane: the same answers as the normal way, as right as those, counted like those, and gone as soon."""

from __future__ import annotations

import random
import re
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from tests.harness.admin import ask, refresh
from tests.harness.behaviours import Answer
from tests.harness.bodies import whole
from tests.harness.certificates import pair
from tests.harness.clocked import Clock
from tests.harness.fetch import Fetched
from tests.harness.index import JSON_V1
from tests.harness.origin import Told, listen
from tests.harness.packages import Distribution, core_metadata, wheel
from tests.harness.scrape import Scraped, parsed
from tests.harness.server import ProxyServer, Settings
from tests.harness.upstream import Upstream
from tests.harness.waiting import eventually
from tests.harness.walking import files_below
from tests.harness.wire import Wire
from tests.harness.world import World, fresh_name, world
from tests.promises import g11_poisoning
from tests.promises.mutations import request

ONCE_A_SECOND = re.compile(r"(?m)^(Age|Date|Cache-Status): .*$")
GZIP = ("Accept-Encoding: gzip", f"Accept: {JSON_V1}")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """With a fast lane, as by default."""
    with world(
        tmp_path_factory.mktemp("lane"), {"limits": {"write_stall": "2s", "keepalive_timeout": "3s"}}
    ) as running:
        yield running


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory, here: World) -> Iterator[World]:
    """The same upstream behind a proxy without one."""
    settings = {"server": {"fast_lane": False}}
    with world(tmp_path_factory.mktemp("slow"), settings, indexes=lambda _: {"test2": here.upstream.url}) as running:
        yield running


def question(path: str, *fields: str, method: str = "GET") -> bytes:
    """A request."""
    return "".join(f"{line}\r\n" for line in (f"{method} {path} HTTP/1.1", "Host: x", *fields, "")).encode()


def metrics(here: World) -> Scraped:
    """What they are now."""
    got = here.get("/metrics")
    return parsed(got.body.decode(), got.headers["content-type"])


def given(here: World) -> float:
    """Answers of the fast lane so far."""
    return metrics(here).sum("pipcacheproxy_fast_lane_answers_total")


class Client:
    """One kept connection, and how many of its answers came by the fast lane."""

    def __init__(self, here: World, wire: Wire) -> None:
        self.here = here
        self._wire = wire

    def ask(self, path: str, *fields: str, method: str = "GET") -> Told:
        """One answer."""
        return self._wire.ask(question(path, *fields, method=method), method)

    def warmed(self, path: str, *fields: str, method: str = "GET") -> Told:
        """Asked until the answer comes by the fast lane: that one."""
        told: list[Told] = []

        def fast() -> bool:
            before = given(self.here)
            told.append(self.ask(path, *fields, method=method))
            return given(self.here) == before + 1

        eventually(fast, f"{path} is given by the fast lane")
        return told[-1]

    def normal(self, path: str, *fields: str, method: str = "GET") -> Told:
        """The answer to the same question the normal way: a request that comes in two pieces is never plain."""
        data, before = question(path, *fields, method=method), given(self.here)
        with socket.create_connection((self.here.proxy.host, self.here.proxy.port), timeout=20) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(data[:20])
            time.sleep(0.1)
            connection.sendall(data[20:])
            told = listen(connection, method)
        assert given(self.here) == before
        return told


@pytest.fixture
def client(here: World) -> Iterator[Client]:
    """A client of its own."""
    with Wire(here.proxy.host, here.proxy.port) as wire:
        yield Client(here, wire)


def project(here: World, padding: int = 1000) -> tuple[Distribution, str, str]:
    """A new project: its file, and the paths of its page and of that."""
    file = here.publish(wheel(fresh_name(), padding=padding))
    page = f"/simple/{file.project}/"
    assert here.get(page).status == here.file(file).status == 200
    return file, page, here.path_of(file)


def everything(connection: socket.socket) -> bytes:
    """All that comes until it is closed."""
    said = b""
    while piece := connection.recv(65536):
        said += piece
    return said


def steady(told: Told) -> tuple[str, bytes]:
    """Its head but for what changes with time, and its body."""
    head = "\n".join(f"{name}: {value}" for name, value in told.lines)
    return ONCE_A_SECOND.sub(r"\1", f"{told.status}\n{head}"), told.body


@pytest.mark.parametrize("fields", [GZIP, ()], ids=["as it is kept", "made of that"])
def test_the_second_who_asks_for_a_page_waits_for_nothing(here: World, client: Client, fields: tuple[str, ...]) -> None:
    """What was fetched for the first is at hand for the next, also once it is written; it says that it was cached."""
    file = here.publish(wheel(fresh_name()))
    page, before = f"/simple/{file.project}/", given(here)
    first = client.ask(page, *fields)
    assert given(here) == before
    second = client.ask(page, *fields)
    assert given(here) == before + 1
    time.sleep(0.5)
    third = client.ask(page, *fields)
    assert given(here) == before + 2
    assert [steady(each) for each in (second, third)] == [steady(first)] * 2
    states = [dict(each.lines)["Cache-Status"] for each in (first, second, third)]
    assert ["fwd=uri-miss" in each for each in states] == [True, False, False]
    assert all("; hit" in each for each in states[1:])
    lines = [line for line in here.proxy.requests() if line["path"] == page]
    assert [line["upstream_status"] for line in lines] == [200, None, None]
    assert [line["outcome"] for line in lines] == ["miss", "hit", "hit"]


@pytest.mark.parametrize("coding", ["gzip", None])
def test_metadata_is_at_hand_once_it_is_kept(here: World, client: Client, coding: str | None) -> None:
    """Nobody has to ask for it the normal way first; it says what proves it."""
    file = wheel(fresh_name())
    file = here.publish(replace(file, metadata=core_metadata(file.project, "1.0") + b"word " * 1000))
    here.page(file.project)
    path = f"{here.path_of(file)}.metadata"
    fields = GZIP if coding else ()
    first, before = client.ask(path, *fields), given(here)

    def kept() -> bool:
        return any(each.name == f"{file.filename}.metadata" for each in files_below(here.proxy.cache / "responses"))

    eventually(kept, "the metadata is kept")
    time.sleep(0.3)
    second = client.ask(path, *fields)
    assert given(here) == before + 1
    assert steady(second) == steady(first)
    assert dict(first.lines).get("Content-Encoding") == coding
    line = here.proxy.requests()[-2]
    assert (line["outcome"], line["because"]) == ("hit", "verified against the hash its page lists")
    assert (line["upstream_status"], line["upstream_seconds"]) == (None, 0.0)


def test_a_page_found_unchanged_is_at_hand_again(here: World, client: Client) -> None:
    """For the next in the same second, though its head is being written anew."""
    file = here.publish(wheel(fresh_name()))
    page = f"/simple/{file.project}/"
    here.upstream.script(page, Answer(headers={"Cache-Control": "max-age=3"}))
    client.ask(page, *GZIP)
    time.sleep(4.1)
    before, asked = given(here), here.upstream.count("GET", page)
    client.ask(page, *GZIP)
    client.ask(page, *GZIP)
    assert given(here) == before + 1
    assert here.upstream.count("GET", page) == asked + 1


CASES = {
    "page": ("page", GZIP, "GET"),
    "page, HTML": ("page", (), "GET"),
    "page, zstd": ("page", ("Accept-Encoding: zstd", f"Accept: {JSON_V1}"), "GET"),
    "page, HEAD": ("page", GZIP, "HEAD"),
    "page of an index": ("index", GZIP, "GET"),
    "page, no-cache of an old pip": ("page", ("User-Agent: pip/24.0", "Cache-Control: max-age=0"), "GET"),
    "file": ("file", (), "GET"),
    "file, HEAD": ("file", (), "HEAD"),
    "metadata": ("metadata", (), "GET"),
    "metadata, gzip": ("metadata", ("Accept-Encoding: gzip",), "GET"),
    "metadata, HEAD": ("metadata", ("Accept-Encoding: gzip",), "HEAD"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("unchanged", [False, True], ids=["whole", "304"])
def test_the_same_answer(here: World, client: Client, without: World, case: str, unchanged: bool) -> None:
    """Byte by byte, head and body, to the one that the normal way gives, of this server and of one without a lane."""
    what, fields, method = CASES[case]
    file, page, path = project(here)
    paths = {"page": page, "index": f"/index/test{page}", "file": path, "metadata": f"{path}.metadata"}
    asked = paths[what]
    client.ask(asked, *fields)
    if unchanged:
        etag = client.ask(asked, *fields).header("etag")
        fields = (*fields, f"If-None-Match: {etag}")
    told = client.warmed(asked, *fields, method=method)
    assert told.status == (304 if unchanged else 200)
    assert steady(told) == steady(client.normal(asked, *fields, method=method))
    assert told.header("cache-status") is not None
    if what in ("file", "metadata") and method == "GET" and not unchanged and not fields:
        assert told.body == (whole(file.body) if what == "file" else file.metadata)
    elsewhere = (
        asked.replace("/simple/", "/index/test2/simple/") if what == "page" else asked.replace("/test/", "/test2/")
    )
    for each in (f"/index/test2{page}", elsewhere):
        without.get(each)
    with Wire(without.proxy.host, without.proxy.port) as wire:
        other = Client(without, wire)
        if what != "page" and what != "index":
            eventually(lambda: other.ask(elsewhere, *fields, method=method).hit, "a hit there, too")
            assert steady(other.ask(elsewhere, *fields, method=method)) == steady(told)
        assert given(without) == 0


def test_a_large_file_and_a_part_are_none_of_it(here: World, client: Client) -> None:
    """Files of more than 256 KiB, and ranges, go the normal way; what is told of the file without its body does not."""
    file, _, path = project(here, padding=300_000)
    before = given(here)
    for fields in ((), ("Range: bytes=0-9",)):
        for _ in range(4):
            assert client.ask(path, *fields).status == (206 if fields else 200)
    assert given(here) == before
    assert client.warmed(path, method="HEAD").header("content-length") == str(file.size)


def test_counted_and_logged(here: World, client: Client) -> None:
    """Each of them is one more request in the metrics, and a line in the log, as all others are."""
    _, page, _ = project(here)
    client.warmed(page, *GZIP)
    size, before, seen = len(client.normal(page, *GZIP).body), metrics(here), len(here.proxy.requests(page))
    for _ in range(50):
        assert client.ask(page, *GZIP).status == 200
    now = metrics(here)
    assert now.moved(before, "pipcacheproxy_fast_lane_answers_total") == 50
    assert now.moved(before, "pipcacheproxy_requests_total", kind="page", outcome="hit", status="2xx") == 50
    assert now.moved(before, "pipcacheproxy_request_duration_seconds_count", kind="page", outcome="hit") == 50
    for name in ("response_bytes", "saved_bytes"):
        assert now.moved(before, f"pipcacheproxy_{name}_total", kind="page") == 50 * size
    eventually(lambda: len(here.proxy.requests(page)) == seen + 50, "there are 50 lines")
    lines = here.proxy.requests(page)[seen:]
    normal = next(line for line in here.proxy.requests(page) if line["outcome"] == "hit")
    assert len({line["request_id"] for line in lines}) == 50
    for line in lines:
        assert list(line) == list(normal)
        own = ("time", "seconds", "request_id")
        assert {name: line[name] for name in line if name not in own} == {
            name: normal[name] for name in normal if name not in own
        }
        assert 0 <= line["seconds"] < 1


def test_right_to_the_second(tmp_path: Path) -> None:
    """Age, Date of a file, and the life that is left go on; what is stale is asked about again."""
    clock = Clock(tmp_path / "clock")
    with world(tmp_path / "world", clock=clock) as here, Wire(here.proxy.host, here.proxy.port) as wire:
        client = Client(here, wire)
        _, page, path = project(here)
        first = client.warmed(page, *GZIP)
        left = re.compile(r"ttl=(-?[0-9]+)")
        client.warmed(path)
        for seconds in (1, 10, 300):
            clock.move(seconds)
            before = given(here)
            then, told = clock.now, client.ask(page, *GZIP)
            assert given(here) == before + 1
            age, ttl = int(told.header("age") or ""), left.search(told.header("cache-status") or "")
            assert ttl is not None
            assert age + int(ttl[1]) == 600
            born = parsedate_to_datetime(told.header("date") or "").timestamp()
            assert born + age - 1 <= then <= born + age + 3
            dated = parsedate_to_datetime(client.ask(path).header("date") or "").timestamp()
            assert then - 1 <= dated <= clock.now
        assert told.body == first.body
        clock.move(300)
        asked = len(here.page_requests(page.split("/")[2]))
        assert "fwd=stale" in (client.ask(page, *GZIP).header("cache-status") or "")
        assert len(here.page_requests(page.split("/")[2])) == asked + 1
        clock.move(-1_000)
        assert client.ask(page, *GZIP).status == 200


def test_what_changes_is_gone_at_once(here: World, client: Client) -> None:
    """A new page, a 404 in its place, a removal, a purge."""
    file, page, path = project(here)
    old = client.warmed(page, *GZIP)
    client.warmed(path)
    here.publish(wheel(file.project, "2.0"))
    assert refresh(here, file.project).status == 200
    new = client.ask(page, *GZIP)
    assert new.body != old.body
    assert client.warmed(page, *GZIP).body == new.body
    assert client.warmed(path).status == 200
    here.script(file.project, Answer(status=404), Answer(status=404))
    refresh(here, file.project)
    assert client.ask(page, *GZIP).status == 404
    for verb, body in (("remove", {"pattern": file.project.replace("-", "_")}), ("purge", {})):
        here.script(file.project)
        assert refresh(here, file.project).status == 200
        for each in (page, path):
            client.warmed(each, *GZIP)
        assert ask(here, "POST", f"/admin/cache/{verb}", body).status == 200
        for each in (page, path):
            told = client.ask(each, *GZIP)
            if verb == "purge" or each == path:
                assert "fwd=uri-miss" in (told.header("cache-status") or ""), (verb, each)


def test_what_is_damaged_is_not_given(here: World, client: Client) -> None:
    """A file is looked at each time: who changes it is noticed by the next request, which heals it."""
    file, _, path = project(here)
    told = client.warmed(path)
    (place,) = [each for each in files_below(here.proxy.cache / "wheels") if each.name == file.filename]
    with place.open("r+b") as damaged:
        damaged.seek(100)
        damaged.write(b"damaged")
    before = metrics(here)
    again = client.ask(path)
    assert again.body == told.body
    assert "fwd=uri-miss" in (again.header("cache-status") or "")
    assert metrics(here).moved(before, "pipcacheproxy_damaged_total") == 1


def test_another_listed_hash_is_another_file(here: World, client: Client) -> None:
    """A page that lists another hash for the same URL: the file that it listed before is not given for it."""
    file, _, path = project(here)
    client.warmed(path)
    other = wheel(file.project, padding=2000)
    assert other.filename == file.filename
    here.upstream.index.distributions = [
        each for each in here.upstream.index.distributions if each.filename != file.filename
    ]
    here.publish(other)
    assert refresh(here, file.project).status == 200
    assert client.ask(path).body == whole(other.body)


def test_pipelined_split_and_mixed(here: World, client: Client) -> None:
    """On one connection: in whatever pieces requests come, each has its answer, in their order."""
    _, page, path = project(here)
    client.warmed(page, *GZIP)
    client.warmed(path)
    wanted = {each: client.ask(each, *GZIP).body for each in (page, path)}
    one, two = question(page, *GZIP), question(path, *GZIP)
    for pieces in (
        [one + two], [one, two, one], [one[:10], one[10:], two], [one + two[:5], two[5:], one], [b"\r\n", one],
        [one, question("/nothing"), two], [one, two + question("/healthz") + one],
        [one, question(page, "Content-Length: 0", *GZIP), two], [one[:-2], one[-2:] + two, two],
    ):  # fmt: skip
        with here.connect() as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(0.02)
            connection.sendall(question("/nothing", "Connection: close"))
            said = everything(connection)
        asked = re.findall(rb"GET (\S+) ", b"".join(pieces))
        for name in (name.decode() for name in asked):
            head, _, said = said.partition(b"\r\n\r\n")
            length = re.search(rb"\r\nContent-Length: ([0-9]+)", head)
            assert length is not None, (pieces, head)
            body, said = said[: int(length[1])], said[int(length[1]) :]
            assert name not in wanted or body == wanted[name], pieces
        assert said.startswith(b"HTTP/1.1 404 ")


def test_who_does_not_read_is_cut(here: World, client: Client) -> None:
    """What one client has not taken is not added to without an end, and it is cut when it takes nothing."""
    file, _, path = project(here, padding=200_000)
    client.warmed(path)
    with here.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        before = here.proxy.rss()
        ended = time.monotonic() + 20
        with suppress(OSError):
            while time.monotonic() < ended:
                connection.sendall(question(path))
                time.sleep(0.001)
        assert time.monotonic() < ended, "it was never cut"
        assert here.proxy.rss() - before < 30 * 2**20
    assert file.size > 200_000


def test_a_connection_that_is_used_stays_open(here: World, client: Client) -> None:
    """The time that a connection may be idle begins anew with each answer, and ends it after the last."""
    _, page, _ = project(here)
    client.warmed(page)
    with here.connect() as connection:
        for _ in range(8):
            connection.sendall(question(page))
            assert listen(connection, "GET").status == 200
            time.sleep(1)
        began = time.monotonic()
        assert connection.recv(1) == b""
        assert 1 < time.monotonic() - began < 10


def test_a_flood_of_questions_takes_bounded_memory(here: World, client: Client) -> None:
    """Each client may spell its own: what is kept of them is bounded, and a question that many ask still has its
    answer."""
    _, page, _ = project(here)
    limit = 32 * 2**20
    for number in range(3000):
        assert client.ask(page, f"Accept: {JSON_V1}, text/x{number}", f"X-Id: {'y' * 3000}").status == 200
    now = metrics(here)
    assert 0 < now.sum("pipcacheproxy_hot_bytes") <= limit
    assert client.warmed(page).status == 200


def test_poisoning(here: World, client: Client) -> None:
    """What is asked with fields that the lane leaves out is what everybody gets, before and after."""
    file, page, path = project(here)
    right = {each: client.ask(each, *GZIP).body for each in (page, path)}
    evil = (
        "X-Forwarded-Host: evil.example.com", "X-Forwarded-Proto: https", "X-Original-URL: /simple/evil/",
        "X-Rewrite-URL: /simple/evil/", "X-HTTP-Method-Override: DELETE", "Forwarded: host=evil.example.com",
        "Cookie: evil=1", "Authorization: Basic ZXZpbDpldmls", "Origin: http://evil.example.com", "Accept-Language: ev",
        "X-Forwarded-For: 192.0.2.1", "Via: 1.1 evil", "Referer: http://evil.example.com/", "Prefer: return=minimal",
    )  # fmt: skip
    for each in (page, path):
        for field in evil:
            for _ in range(3):
                told = client.ask(each, *GZIP, field)
                assert told.body == right[each]
                assert not any(b"evil" in f"{name}{value}".encode() for name, value in told.lines)
        assert client.warmed(each, *GZIP).body == right[each]
    assert here.page_requests(file.project)[-1].path == page


def test_over_tls(tmp_path: Path) -> None:
    """The same over HTTPS: counted, and the same bytes; who does not take them is cut there, too."""
    made = pair(tmp_path / "pem")
    limits = {"limits": {"write_stall": "2s"}}
    with world(tmp_path / "world", {"server": made.settings, **limits}) as here:
        file = here.publish(wheel("six", padding=200_000))

        def asked(path: str) -> Fetched:
            return here.get(path, trust=made.trust())

        def by_lane() -> float:
            got = asked("/metrics")
            return parsed(got.body.decode(), got.headers["content-type"]).sum("pipcacheproxy_fast_lane_answers_total")

        path = here.path_of(file)
        assert asked("/simple/six/").status == asked(path).status == 200
        eventually(lambda: asked(path).hit and by_lane() > 0, "the fast lane gives it")

        def fast() -> bool:
            # Not every one is: a handshake may leave the request in two pieces.
            before = by_lane()
            return asked(path).sha256 == file.sha256 and by_lane() == before + 1

        eventually(fast, "one is counted")
        with here.connect() as plain, made.trust().wrap_socket(plain, server_hostname="127.0.0.1") as connection:
            plain_size = here.proxy.rss()
            ended = time.monotonic() + 20
            with suppress(OSError):
                while time.monotonic() < ended:
                    connection.sendall(question(path))
                    time.sleep(0.001)
            assert time.monotonic() < ended, "it was never cut"
            assert here.proxy.rss() - plain_size < 30 * 2**20


def test_behind_a_trusted_proxy(tmp_path: Path) -> None:
    """Whoever speaks for others is believed in the log here, too; for strangers nothing is read."""
    with (
        world(tmp_path, {"server": {"trusted_proxies": ["127.0.0.1"]}}) as here,
        Wire("127.0.0.1", here.proxy.port) as wire,
    ):
        client = Client(here, wire)
        _, page, _ = project(here)
        client.warmed(page, *GZIP)
        for number in range(3):
            before = given(here)
            client.ask(page, *GZIP, f"X-Forwarded-For: 203.0.113.7, 192.0.2.{number}")
            assert given(here) == before + 1
            eventually(lambda: here.proxy.requests(page)[-1]["client"] == f"192.0.2.{number}", "the log names it")  # noqa: B023 - waited for


def test_a_host_that_is_not_served(tmp_path: Path) -> None:
    """What is answered for one Host is not for another."""
    with (
        world(tmp_path, {"server": {"allowed_hosts": ["x", "127.0.0.1"]}}) as here,
        Wire("127.0.0.1", here.proxy.port) as wire,
    ):
        client = Client(here, wire)
        _, page, _ = project(here)
        client.warmed(page, *GZIP)
        told = wire.ask(question(page, *GZIP).replace(b"Host: x", b"Host: evil.example.com"))
        assert told.status == 421
        assert client.ask(page, *GZIP).status == 200


def test_it_can_be_closed(tmp_path: Path) -> None:
    """By either setting."""
    for settings in ({"server": {"fast_lane": False}}, {"cache": {"hot_max_size": "0"}}):
        with world(tmp_path / next(iter(settings)), settings) as here:
            _, page, _ = project(here)
            for _ in range(5):
                assert here.get(page).status == 200
            assert given(here) == 0


def test_whatever_is_asked(tmp_path: Path) -> None:
    """1,500 questions as nobody should ask them, each three times: a server with a fast lane and one without give the
    same answers. (Documents of the JSON API say under which address they were asked for: none of the lane's.)"""
    files = [wheel("well-known", f"{each}.0") for each in range(3)]
    chance, words = random.Random(7), list[tuple[bytes, str]]()
    with Upstream(*files) as upstream:
        targets = [each for each in g11_poisoning.targets(upstream, files) if each.tails is not g11_poisoning.JSON]
        for _ in range(1500):
            target = chance.choice(targets)
            words.append(request(target.head, target.tails, chance.choice((0.0, target.odds)), chance))
        settings: Settings = {"server": {"fast_lane": False}, "limits": {"rest_max": "0s"}}
        fast = ProxyServer(tmp_path / "fast", {"test": upstream.url})
        slow = ProxyServer(tmp_path / "slow", {"test": upstream.url}, settings=settings)
        with fast, slow, Wire(fast.host, fast.port) as one, Wire(slow.host, slow.port) as other:
            here = World(fast, upstream)
            paths = ["/simple/", "/simple/well-known/", *(here.path_of(file) for file in files)]
            for path in (*paths, *(here.path_of(file, ".metadata") for file in files)):
                one.ask(question(path))
                other.ask(question(path))
            eventually(lambda: all(here.file(file).hit for file in files), "all are kept")
            for data, method in words:
                normal = other.ask(data, method)
                for _ in range(3):
                    told = one.ask(data, method)
                    assert (told.status, told.whole) == (normal.status, normal.whole), data
                    if told.status < 400:
                        assert steady(told) == steady(normal), data
            assert given(here) > 500
