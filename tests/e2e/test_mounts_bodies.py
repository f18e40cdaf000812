"""Bodies that mounts pass on: of every size and framing, in parts, cut, too large, on a full disk, after a restart."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.harness.exchange import Gate
from tests.harness.origin import Lines, Origin, Question, Say, Told, Tree, listen, request, say, tree
from tests.harness.server import ROOT, ProxyServer
from tests.harness.smalldisk import SmallDisk
from tests.harness.waiting import eventually

FRESH = "max-age=5000"
KIB = 1024
MIB = 1024 * KIB
ETAG = ("ETag", '"a"')
SETTINGS = {"cache": {"mounts_max_size": "16MB"}, "limits": {"unknown_file_max": "1MB"}}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    """One proxy that these tests share: of one body it keeps 4 MB, of one without a length 1 MB."""
    with tree(tmp_path_factory.mktemp("mounts"), settings=SETTINGS) as made:
        yield made


def noise(size: int) -> bytes:
    """So many bytes, no two blocks alike."""
    return b"".join(number.to_bytes(8, "big") for number in range(size // 8 + 1))[:size]


BODY = noise(100_000)
SIZES = [0, 1, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, 256 * KIB, 700_001]


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("size", SIZES)
def test_every_size(here: Tree, size: int, framing: str) -> None:
    """The same bytes from the origin and from the store, also for a client of HTTP/1.0."""
    body = noise(size)
    rest = here.place(say(body, FRESH, framing=framing))
    other = here.place(say(body, FRESH, framing=framing))
    first, old = here.get(rest), here.ask("GET", other, version="1.0")
    for told in (first, old, here.hit(rest), here.ask("GET", rest, version="1.0")):
        assert (told.status, told.body, told.whole) == (200, body, True)
    assert here.hit(rest).header("content-length") == str(size)
    assert len(here.origin.asked(rest)) == 1


@pytest.mark.parametrize("control", [FRESH, "no-store"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_body_that_ends_with_its_connection(here: Tree, control: str, version: str) -> None:
    """Nobody knows whether it is whole: it is passed on, and not kept."""
    body = noise(200_000)
    rest = here.place(say(body, control, framing="close"))
    for _ in range(2):
        assert here.ask("GET", rest, version=version).body == body
    here.idle()
    assert not here.kept(rest)
    assert len(here.origin.asked(rest)) == 2


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_body_as_large_as_may_be(here: Tree, framing: str) -> None:
    """A quarter of the room, or ``unknown_file_max`` where it does not say its length."""
    body = noise(4_000_000 if framing == "length" else 1_000_000)
    rest = here.place(say(body, FRESH, framing=framing))
    assert here.get(rest).body == body
    assert here.hit(rest).body == body


def test_a_body_larger_than_the_room(here: Tree) -> None:
    """It is passed on, byte for byte, to each who asks, and not kept."""
    body = noise(4_000_001)
    rest = here.place(say(body, FRESH))
    for _ in range(2):
        told = here.get(rest)
        assert (told.body == body, told.whole, told.header("content-length")) == (True, True, str(len(body)))
    here.idle()
    assert not here.kept(rest)


def test_a_body_without_length_that_does_not_end(here: Tree) -> None:
    """Beyond ``unknown_file_max`` it is cut: no disk is filled by one answer."""
    rest = here.place(say(noise(2 * MIB), FRESH, framing="chunked"))
    assert not here.get(rest).whole
    here.idle()
    assert not here.kept(rest)
    free = here.place(say(noise(2 * MIB), "no-store", framing="chunked"))
    assert here.get(free).body == noise(2 * MIB)


@pytest.mark.parametrize("control", [FRESH, "no-store"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("stop", [100_000, 199_999])
def test_a_body_that_is_cut(here: Tree, control: str, framing: str, stop: int) -> None:
    """So it is for its client; and it is not kept."""
    body, gate = noise(200_000), Gate()
    cut = say(body, control, framing=framing, pause_after=stop, gate=gate, stop_after=stop)
    rest = here.place(cut, say(body, FRESH))
    with here.send(rest) as connection:
        assert connection.recv(1, socket.MSG_PEEK) == b"H"
        gate.open()
        told = listen(connection, "GET")
    assert (told.status, told.whole, body.startswith(told.body)) == (200, False, True)
    here.idle()
    assert not here.kept(rest)
    assert here.get(rest).body == body


@pytest.mark.parametrize("control", [FRESH, "no-store"])
def test_more_than_was_declared(here: Tree, control: str) -> None:
    """RFC 9112 §6.3: the body ends where its length says; what follows is no answer to anything."""
    rest = here.place(say(b"0123456789 and more", control, declared=10))
    for _ in range(3):
        assert here.get(rest).body == b"0123456789"
    other = here.place(say("other", "no-store"))
    for _ in range(3):
        assert here.get(other).body == b"other"


@pytest.mark.parametrize("coding", ["gzip", "zstd", "nonsense"])
def test_codings_are_not_touched(here: Tree, coding: str) -> None:
    """What is coded stays so, whether it is or not."""
    rest = here.place(say(b"\x1f\x8bno gzip", FRESH, ("Content-Encoding", coding)))
    for told in (here.get(rest), here.hit(rest)):
        assert (told.body, told.all("content-encoding")) == (b"\x1f\x8bno gzip", [coding])


def test_events_as_they_come(here: Tree) -> None:
    """Nobody waits for more of a stream of events than what is there; with its last client it ends."""
    gate = Gate()
    lines = (("Content-Type", "text/event-stream; charset=utf-8"),)
    events = say(b"data: 1\n\n" + BODY, "no-cache", *lines, framing="chunked", pause_after=9, gate=gate)
    rest = here.place(events)
    with here.send(rest) as connection:
        connection.settimeout(20)
        seen = b""
        while b"data: 1" not in seen:
            seen += connection.recv(4096)
    gate.open()
    here.idle()
    assert not here.kept(rest)


# --- parts

RANGES = [
    ("bytes=0-9", 206, BODY[:10], "bytes 0-9/100000"),
    ("bytes=99990-", 206, BODY[-10:], "bytes 99990-99999/100000"),
    ("bytes=-10", 206, BODY[-10:], "bytes 99990-99999/100000"),
    ("bytes=5-999999", 206, BODY[5:], "bytes 5-99999/100000"),
    ("bytes=100000-", 416, b"", "bytes */100000"),
    ("bytes=-0", 416, b"", "bytes */100000"),
    ("bytes=0-1,5-6", 200, BODY, None),
    ("bytes=9-0", 200, BODY, None),
    ("lines=0-1", 200, BODY, None),
]


@pytest.mark.parametrize(("asked", "status", "body", "content_range"), RANGES)
def test_parts_of_what_is_here(here: Tree, asked: str, status: int, body: bytes, content_range: str | None) -> None:
    """From the complete body, with its fields; several at once are the whole."""
    rest = here.place(say(BODY, FRESH, ETAG, ("X-A", "1"), ("Content-Range", "nonsense")))
    here.get(rest)
    here.hit(rest)
    told = here.get(rest, ("Range", asked))
    assert (told.status, told.body, told.hit) == (status, body, True)
    assert told.all("content-range") == ["nonsense" if content_range is None else content_range]
    assert (told.header("etag"), told.header("x-a"), told.header("content-length")) == ('"a"', "1", str(len(body)))
    assert here.ask("HEAD", rest, ("Range", asked)).status == 200
    assert len(here.origin.asked(rest)) == 1


@pytest.mark.parametrize(
    ("if_range", "status"),
    [('"a"', 206), ('"b"', 200), ('W/"a"', 200), ("Sun, 06 Nov 1994 08:49:37 GMT", 200)],
)
def test_if_range(here: Tree, if_range: str, status: int) -> None:
    """By the strong ETag alone."""
    rest = here.place(say(BODY, FRESH, ETAG, ("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT")))
    here.get(rest)
    here.hit(rest)
    assert here.get(rest, ("Range", "bytes=0-0"), ("If-Range", if_range)).status == status


def test_parts_of_what_is_not_here(here: Tree) -> None:
    """Passed on, and so is what the origin says: its part, its whole, its 416. Nothing of it is kept."""
    part = say("part", FRESH, ETAG, ("Content-Range", "bytes 0-3/9"), status=206)
    multipart = say("--x", FRESH, ("Content-Type", "multipart/byteranges; boundary=x"), status=206)
    for answer in (part, multipart, say("whole", FRESH), say("", FRESH, ("Content-Range", "bytes */9"), status=416)):
        rest = here.place(answer)
        for _ in range(2):
            told = here.get(rest, ("Range", "bytes=0-3"), ("If-Range", '"a"'))
            assert (told.status, told.body) == (answer.status, answer.body)
            assert told.all("content-range") == [value for name, value in answer.lines if name == "Content-Range"]
        here.idle()
        assert not here.kept(rest)
        assert [each.header("if-range") for each in here.origin.asked(rest)] == ['"a"', '"a"']


@pytest.mark.parametrize("changed", [False, True])
def test_a_part_of_what_is_stale(here: Tree, changed: bool) -> None:
    """It is asked whether the whole still holds; then the part is from that, or from the new one, which is kept."""
    again = say(BODY[::-1], FRESH, ("ETag", '"b"')) if changed else say("", FRESH, ETAG, status=304)
    rest = here.place(say(BODY, "max-age=0", ETAG), again)
    here.get(rest)
    here.settle(rest)
    told = here.get(rest, ("Range", "bytes=0-9"))
    assert (told.status, told.body) == (206, BODY[::-1][:10] if changed else BODY[:10])
    last = here.origin.asked(rest)[-1]
    assert (last.all("range"), last.all("if-none-match")) == ([], ['"a"'])
    assert here.hit(rest).body == (BODY[::-1] if changed else BODY)


def test_a_part_of_what_is_stale_and_cannot_be_asked_about(here: Tree) -> None:
    """Without a validator the part is asked for as it is; what is kept stays."""
    rest = here.place(say(BODY, "max-age=0"), say("part", FRESH, ("Content-Range", "bytes 0-3/9"), status=206))
    here.get(rest)
    here.settle(rest)
    assert here.get(rest, ("Range", "bytes=0-3")).body == b"part"
    here.idle()
    assert here.kept(rest)


def test_a_part_nobody_asked_for(here: Tree) -> None:
    """A 206 to a question without Range is no answer."""
    rest = here.place(say("part", FRESH, ("Content-Range", "bytes 0-3/9"), status=206))
    assert here.get(rest).status == 503
    here.idle()
    assert not here.kept(rest)


# --- removed, restarted, damaged, full


def test_what_is_removed_while_it_comes_stays_removed(here: Tree) -> None:
    """The client has all of it; the next one asks anew."""
    gate = Gate()
    rest = here.place(say(BODY * 5, FRESH, pause_after=300_000, gate=gate), say("new", FRESH))
    with here.send(rest) as connection:
        assert gate.reached.wait(20)
        told = purge(here)
        assert told.status == 200
        gate.open()
        assert listen(connection, "GET").body == BODY * 5
    here.idle()
    assert not here.kept(rest)
    assert here.get(rest).body == b"new"


def purge(here: Tree) -> Told:
    """Remove everything."""
    token = (here.proxy.cache / "admin.token").read_text().strip()
    lines = (("Authorization", f"Bearer {token}"), ("Content-Type", "application/json"))
    with here.connect() as connection:
        connection.sendall(request("POST", "/admin/cache/purge", lines, b"{}"))
        return listen(connection, "POST")


def variants_of(made: Tree) -> tuple[str, list[Lines]]:
    """A path of which two variants are kept, and what asks for them."""
    wishes: list[Lines] = [(("X-A", "1"),), (("X-A", "2"),)]

    def own(question: Question) -> Say:
        return say(str(question.header("x-a")), FRESH, ("Vary", "X-A"))

    rest = made.place(own)
    for lines in wishes:
        made.get(rest, *lines)
        made.hit(rest, *lines)
    return rest, wishes


def test_a_restart(tmp_path: Path) -> None:
    """What was kept is, with all its fields and variants; cookies and unusual octets, too."""
    with tree(tmp_path) as made:
        rest, wishes = variants_of(made)
        other = made.place(say(BODY, FRESH, ETAG, ("X-O", "\xe4\xff"), ("X-T", "1"), ("X-T", "2")))
        made.get(f"{other}?a=1")
        made.hit(f"{other}?a=1")
        made.origin.stop()
        made.proxy.restart()
        for lines in wishes:
            assert made.hit(rest, *lines).body == lines[0][1].encode()
        told = made.hit(f"{other}?a=1")
        assert (told.body, told.all("x-o"), told.all("x-t")) == (BODY, ["\xe4\xff"], ["1", "2"])
        assert made.hit(f"{other}?a=1", ("Range", "bytes=0-9")).status == 206
        assert made.get(other).status == 503


def bodies(cache: Path) -> None:
    """All bodies are gone."""
    for path in (cache / "mounts").rglob("*.bin*"):
        path.unlink()


def lists(cache: Path) -> None:
    """What tells the variants is gone."""
    for path in (cache / "responses").glob("cache.db*"):
        path.unlink()


def rows(cache: Path) -> None:
    """The rows of bodies are gone."""
    for path in (cache / "mounts").glob("cache.db*"):
        path.unlink()


@pytest.mark.parametrize("damage", [bodies, lists, rows])
def test_half_of_it_is_gone(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """A miss that heals, for each variant: one question, and then hits again."""
    with tree(tmp_path) as made:
        rest, wishes = variants_of(made)
        made.proxy.terminate()
        damage(made.proxy.cache)
        made.proxy.start()
        for lines in wishes:
            told = made.get(rest, *lines)
            assert (told.body, told.hit) == (lines[0][1].encode(), False)
            assert made.hit(rest, *lines).body == lines[0][1].encode()
        assert len(made.origin.asked(rest)) == 4


def test_a_body_that_vanishes_while_we_run(tmp_path: Path) -> None:
    """The same, without a restart, for one that is stale as well: a 304 says that nothing changed, but of nothing."""
    with tree(tmp_path) as made:
        fresh = made.place(say("fresh", FRESH), say("again", FRESH))
        stale = made.place(say("stale", "max-age=0", ETAG), say("", FRESH, ETAG, status=304), say("again", FRESH))
        for rest in (fresh, stale):
            made.get(rest)
            made.settle(rest)
        bodies(made.proxy.cache)
        for rest in (fresh, stale):
            assert made.get(rest).body == b"again"
            assert made.hit(rest).body == b"again"


@pytest.mark.parametrize("size", [1000, 3 * MIB])
def test_a_full_disk(tmp_path: Path, size: int) -> None:
    """Everything is served, to a crowd as well, and by every framing."""
    if what := SmallDisk.missing():
        missing(what)
    with SmallDisk(tmp_path / "disk", 12 * MIB) as disk, Origin() as origin:
        cache = {"dir": str(disk.path / "cache"), "min_free": 0}
        proxy = ProxyServer(
            tmp_path / "proxy",
            {"test": f"http://{origin.address}/simple/"},
            mounts={"tree": origin.url},
            settings={"cache": cache, "limits": {"breaker_failures": 1_000_000}},
        )
        proxy.prefix = disk.prefix(ROOT)
        proxy.cache = disk.seen / "cache"
        with proxy:
            made = Tree(proxy, origin)
            disk.fill()
            for framing in ("length", "chunked", "close"):
                gate = Gate()
                rest = made.place(say(noise(size), FRESH, held=gate, framing=framing))
                with made.send(rest) as connection, made.send(rest) as other:
                    assert gate.reached.wait(20)
                    gate.open()
                    for each in (connection, other):
                        told = listen(each, "GET")
                        assert (told.status, told.whole, told.body == noise(size)) == (200, True, True)
            made.idle()
            assert "Traceback" not in proxy.stderr


def test_nothing_is_left_open(here: Tree) -> None:
    """No look is under way, no body on its way, nothing spooled, and the log has no fault of ours."""
    here.idle()
    eventually(lambda: here.origin.busy == 0, "no answer is under way")
    assert here.proxy.spooled() == []
    assert "Traceback" not in here.proxy.stderr
