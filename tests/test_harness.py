"""The harness itself: an upstream must misbehave exactly as told, or the other tests prove nothing."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import json
import socket
import tarfile
import threading
import time
import tomllib
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import uv

from tests.harness.behaviours import Answer, Raw, busy, cut, hang_up, polite, redirect, reset_at_once
from tests.harness.bodies import BLOCK, Generated, sha256_of, whole
from tests.harness.clients import Fresh, Pip, client_environment, run
from tests.harness.desk import Desk
from tests.harness.exchange import Exchange, Gate
from tests.harness.fetch import Fetched, fetch
from tests.harness.index import JSON_V1
from tests.harness.packages import Distribution, blob, sdist, wheel
from tests.harness.server import clean_environment, toml
from tests.harness.tripwire import Tripwire
from tests.harness.upstream import Upstream
from tests.harness.waiting import eventually

ACCEPT_JSON = {"Accept": JSON_V1}


def get(
    upstream: Upstream, path: str, headers: Mapping[str, str] | None = None, method: str = "GET"
) -> tuple[http.client.HTTPResponse, bytes]:
    """One request on a connection of its own; redirects are not followed."""
    host, _, port = upstream.origin.removeprefix("http://").rpartition(":")
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=10)
    try:
        connection.request(method, path, headers=dict(headers or {}))
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()


def received(upstream: Upstream, path: str) -> bytes:
    """Every byte of the connection, as it came. Raises ConnectionResetError on RST."""
    host, _, port = upstream.origin.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        return b"".join(iter(lambda: connection.recv(BLOCK), b""))


@pytest.fixture
def six(upstream: Upstream) -> Distribution:
    """A small wheel that the upstream has."""
    made = wheel("six", "1.17.0")
    upstream.index.add(made)
    return made


def test_page_is_json_or_html(upstream: Upstream, six: Distribution) -> None:
    """The Accept header decides, and both list the file with its hash."""
    answer, body = get(upstream, "/simple/six/", ACCEPT_JSON)
    listed = json.loads(body)["files"][0]
    assert answer.headers["Content-Type"] == JSON_V1
    assert (listed["hashes"]["sha256"], listed["size"]) == (six.sha256, six.size)
    assert listed["url"] == f"{upstream.files_url}/packages/six/{six.filename}"
    answer, body = get(upstream, "/simple/six/", {"Accept": "text/html"})
    assert answer.headers["Content-Type"].startswith("text/html")
    assert f"#sha256={six.sha256}".encode() in body


def test_log_tells_method_target_headers_and_what_was_sent(upstream: Upstream, six: Distribution) -> None:
    """Everything a test may want to know of a request is in the log."""
    get(upstream, "/simple/six/?x=1", {"User-Agent": "tester"})
    (seen,) = upstream.wait_for(lambda log: bool(log) and log[-1].done)
    assert (seen.method, seen.target, seen.path, seen.status) == (
        "GET",
        "/simple/six/?x=1",
        "/simple/six/",
        200,
    )
    assert seen.headers["user-agent"] == "tester"
    assert seen.sent > 0
    assert seen.complete
    assert upstream.count("GET", "/simple/six/") == 1
    assert upstream.count("HEAD") == 0


def test_validators_make_304(upstream: Upstream, six: Distribution) -> None:
    """A matching ETag or date gives 304 without a body; a bare index has neither."""
    first, _ = get(upstream, "/simple/six/")
    again, body = get(upstream, "/simple/six/", {"If-None-Match": first.headers["ETag"]})
    dated, _ = get(upstream, "/simple/six/", {"If-Modified-Since": first.headers["Last-Modified"]})
    assert (again.status, dated.status, body) == (304, 304, b"")
    assert again.headers["ETag"] == first.headers["ETag"]
    upstream.index.bare()
    bare, _ = get(upstream, "/simple/six/", {"If-None-Match": first.headers["ETag"]} | ACCEPT_JSON)
    assert (bare.status, set(bare.headers)) == (
        200,
        {"Content-Type", "Content-Length", "Accept-Ranges", "Date"},
    )


def test_gzip_only_for_those_who_take_it(upstream: Upstream, six: Distribution) -> None:
    """A coded page decodes to the plain one and has an ETag of its own."""
    plain, text = get(upstream, "/simple/six/")
    coded, body = get(upstream, "/simple/six/", {"Accept-Encoding": "gzip"})
    assert coded.headers["Content-Encoding"] == "gzip"
    assert "Content-Encoding" not in plain.headers
    assert gzip.decompress(body) == text
    assert coded.headers["ETag"] != plain.headers["ETag"]


@pytest.mark.parametrize(
    ("asked", "status", "span"),
    [
        ("bytes=0-9", 206, slice(0, 10)),
        ("bytes=5-", 206, slice(5, None)),
        ("bytes=-7", 206, slice(-7, None)),
        ("bytes=99999999-", 416, slice(0, 0)),
        ("bytes=0-1,3-4", 200, slice(None)),
    ],
)
def test_ranges_of_files(upstream: Upstream, six: Distribution, asked: str, status: int, span: slice) -> None:
    """One range is cut out, several are ignored, one outside is 416."""
    answer, body = get(upstream, upstream.path_of(six), {"Range": asked})
    assert (answer.status, body) == (status, six.data[span])


def test_head_has_the_length_and_no_body(upstream: Upstream, six: Distribution) -> None:
    """HEAD of a file says its size."""
    answer, body = get(upstream, upstream.path_of(six), method="HEAD")
    assert (answer.headers["Content-Length"], body) == (str(six.size), b"")


def test_metadata_is_that_of_the_wheel(upstream: Upstream, six: Distribution) -> None:
    """The .metadata file is byte for byte the wheel's METADATA, and absent when it is switched off."""
    _, body = get(upstream, f"{upstream.path_of(six)}.metadata")
    with zipfile.ZipFile(io.BytesIO(six.data)) as archive:
        assert archive.read("six-1.17.0.dist-info/METADATA") == body == six.metadata
    upstream.index.core_metadata = False
    answer, _ = get(upstream, f"{upstream.path_of(six)}.metadata")
    assert answer.status == 404


def test_unknown_things_are_404_and_names_are_redirected(upstream: Upstream, six: Distribution) -> None:
    """As an index does it."""
    assert get(upstream, "/simple/other/")[0].status == 404
    assert get(upstream, "/packages/six/other.whl")[0].status == 404
    assert get(upstream, "/elsewhere")[0].status == 404
    assert get(upstream, "/simple/SIX")[0].headers["Location"] == "/simple/six/"


@pytest.mark.parametrize("links", ["rooted", "relative", "base"])
def test_html_links(upstream: Upstream, six: Distribution, links: str) -> None:
    """Each spelling of a link is the one asked for."""
    spellings = {
        "rooted": f'href="/packages/six/{six.filename}#',
        "relative": f'href="../../packages/six/{six.filename}#',
        "base": f'href="{six.filename}#',
    }
    upstream.index.html_only(links)  # type: ignore[arg-type]  # a key of those above
    _, body = get(upstream, "/simple/six/", ACCEPT_JSON)
    assert spellings[links].encode() in body
    assert (b"<base " in body) == (links == "base")


def test_cut_really_truncates(upstream: Upstream, six: Distribution) -> None:
    """The declared length is the whole, what comes is a part, and then the connection is closed."""
    upstream.script(upstream.path_of(six), cut(100))
    head, _, body = received(upstream, upstream.path_of(six)).partition(b"\r\n\r\n")
    assert f"Content-Length: {six.size}".encode() in head
    assert body == six.data[:100]
    (seen,) = upstream.wait_for(lambda log: log[-1].done)
    assert (seen.sent, seen.complete) == (100, False)


def test_reset_really_resets(upstream: Upstream, six: Distribution) -> None:
    """RST reaches the client as a reset, with and without bytes before it."""
    for behaviour in (cut(100, "reset"), reset_at_once):
        upstream.script(upstream.path_of(six), behaviour)
        with pytest.raises(ConnectionResetError):
            received(upstream, upstream.path_of(six))


def test_hang_up_sends_nothing(upstream: Upstream) -> None:
    """A connection that closes without a byte."""
    upstream.script("/simple/six/", hang_up)
    assert received(upstream, "/simple/six/") == b""


def test_stall_stalls_until_the_gate_opens(upstream: Upstream, six: Distribution) -> None:
    """Up to the stall all bytes come, after it none, and the rest once it is released."""
    gate = Gate()
    upstream.script(upstream.path_of(six), Answer(stall_after=100, gate=gate))
    bodies: list[bytes] = []
    client = threading.Thread(target=lambda: bodies.append(get(upstream, upstream.path_of(six))[1]))
    client.start()
    assert gate.reached.wait(10)
    upstream.wait_for(lambda log: log[-1].sent == 100)
    assert not bodies
    gate.open()
    client.join(10)
    assert bodies == [six.data]


def test_held_waits_before_the_head(upstream: Upstream, six: Distribution) -> None:
    """No status line leaves before the gate opens."""
    gate = Gate()
    upstream.script("/simple/six/", Answer(held=gate))
    client = threading.Thread(target=get, args=(upstream, "/simple/six/"))
    client.start()
    assert gate.reached.wait(10)
    assert upstream.log[-1].status is None
    gate.open()
    client.join(10)
    assert upstream.log[-1].status == 200


def test_rate_and_delay_are_kept(upstream: Upstream) -> None:
    """A megabyte at 4 MB/s after 0.1 s takes a third of a second, give or take."""
    big = blob("big", size=1_000_000)
    upstream.index.add(big)
    upstream.script(upstream.path_of(big), Answer(rate=4_000_000, delay=0.1))
    started = time.monotonic()
    _, body = get(upstream, upstream.path_of(big))
    assert 0.3 < time.monotonic() - started < 3
    assert hashlib.sha256(body).hexdigest() == big.sha256


def test_corrupt_flips_one_byte(upstream: Upstream) -> None:
    """The length stays, the hash does not."""
    big = blob("big", size=200_000)
    upstream.index.add(big)
    upstream.script(upstream.path_of(big), Answer(corrupt=150_000))
    _, body = get(upstream, upstream.path_of(big))
    assert [at for at, (ours, theirs) in enumerate(zip(body, big.data, strict=True)) if ours != theirs] == [150_000]


def test_framings(upstream: Upstream, six: Distribution) -> None:
    """Chunked and closed bodies arrive whole, without a Content-Length; a wrong length is sent as told."""
    for framing in ("chunked", "close"):
        upstream.script(upstream.path_of(six), Answer(framing=framing))
        answer, body = get(upstream, upstream.path_of(six))
        assert (body, answer.headers["Content-Length"]) == (six.data, None)
    upstream.script(upstream.path_of(six), Answer(declared=10))
    assert get(upstream, upstream.path_of(six))[1] == six.data[:10]
    upstream.script(upstream.path_of(six), Answer(framing="chunked", stop_after=50))
    with pytest.raises(http.client.IncompleteRead):
        get(upstream, upstream.path_of(six))


def test_protocol_errors_are_sent_as_told(upstream: Upstream, six: Distribution) -> None:
    """Two lengths, 206 to a plain GET, 304 unasked, and bytes that are no HTTP."""
    path = upstream.path_of(six)
    upstream.script(path, Answer(extra=(("Content-Length", "5"),)))
    assert received(upstream, path).count(b"Content-Length") == 2
    upstream.script(path, Answer(status=206, body=b"part", extra=(("Content-Range", "bytes 0-3/9"),)))
    assert get(upstream, path)[0].status == 206
    upstream.script(path, Answer(status=304))
    assert received(upstream, path).startswith(b"HTTP/1.1 304")
    upstream.script(path, Raw(b"SSH-2.0-nonsense\r\n"))
    assert received(upstream, path) == b"SSH-2.0-nonsense\r\n"


def test_redirects_and_refusals(upstream: Upstream) -> None:
    """Location and Retry-After as given; a gzip body whether it was accepted or not."""
    upstream.script("/a", redirect("/b", 307))
    upstream.script("/b", busy(429, 7))
    upstream.script("/c", Answer(status=200, body=b"text", compressed=True))
    answer, _ = get(upstream, "/a")
    assert (answer.status, answer.headers["Location"]) == (307, "/b")
    answer, _ = get(upstream, "/b")
    assert (answer.status, answer.headers["Retry-After"]) == (429, "7")
    assert gzip.decompress(get(upstream, "/c")[1]) == b"text"


def test_scripts_are_used_up_in_order_and_the_last_stays(upstream: Upstream, six: Distribution) -> None:
    """Two refusals, then polite for ever; an emptied script is polite too."""
    upstream.script("/simple/six/", busy(503), busy(429), polite)
    assert [get(upstream, "/simple/six/")[0].status for _ in range(4)] == [503, 429, 200, 200]
    upstream.script("/simple/six/", busy(503))
    assert [get(upstream, "/simple/six/")[0].status for _ in range(2)] == [503, 503]
    upstream.script("/simple/six/")
    assert get(upstream, "/simple/six/")[0].status == 200


def test_stop_cuts_and_refuses_and_start_takes_the_same_port(upstream: Upstream, six: Distribution) -> None:
    """Running connections end where they are, new ones are refused, and later all is as before."""
    gate = Gate()
    upstream.script(upstream.path_of(six), Answer(stall_after=100, gate=gate), polite)
    bodies: list[bytes] = []
    client = threading.Thread(target=lambda: bodies.append(received(upstream, upstream.path_of(six))))
    client.start()
    assert gate.reached.wait(10)
    url = upstream.url
    upstream.stop()
    client.join(10)
    assert bodies[0].endswith(six.data[:100])
    with pytest.raises(ConnectionRefusedError):
        received(upstream, "/simple/six/")
    upstream.start()
    assert upstream.url == url
    assert get(upstream, upstream.path_of(six))[1] == six.data


def test_a_behaviour_may_stop_the_upstream(upstream: Upstream, six: Distribution) -> None:
    """The upstream that dies when it is asked a certain thing."""

    def die(exchange: Exchange) -> None:
        upstream.stop()

    upstream.script("/simple/six/", die)
    assert received(upstream, "/simple/six/") == b""
    assert upstream.stopping


def test_wait_for_gives_up(upstream: Upstream) -> None:
    """What never happens is a failure with the log in it, not a hang."""
    with pytest.raises(AssertionError, match="not seen"):
        upstream.wait_for(lambda log: len(log) > 0, timeout=0.05)


def test_fetch_tells_whole_answers_from_cut_ones(upstream: Upstream, six: Distribution) -> None:
    """Complete with a length, chunked and for HEAD; cut short in each framing; reset; nothing at all."""
    path, url = upstream.path_of(six), f"{upstream.origin}{upstream.path_of(six)}"
    whole_answer = fetch(url)
    assert (whole_answer.status, whole_answer.sha256, whole_answer.complete) == (200, six.sha256, True)
    assert fetch(url, method="HEAD").complete
    upstream.script(path, Answer(framing="chunked"))
    assert fetch(url) == Fetched(200, fetch(url).headers, six.data, True)
    for behaviour in (cut(100), Answer(framing="chunked", stop_after=100)):
        upstream.script(path, behaviour)
        short = fetch(url)
        assert (short.status, short.complete, six.data.startswith(short.body)) == (200, False, True)
    upstream.script(path, reset_at_once)
    assert fetch(url) == Fetched(0, {}, b"", False)
    upstream.script(path, hang_up)
    assert fetch(url) == Fetched(0, {}, b"", False)


def test_eventually_gives_up() -> None:
    """A condition that never holds is a failure that says which."""
    with pytest.raises(AssertionError, match="the moon"):
        eventually(lambda: False, "the moon", timeout=0.02)


def test_ipv6_upstream() -> None:
    """The same on the other loopback address, with brackets in its URL."""
    try:
        with Upstream(wheel("six"), address="::1") as upstream:
            assert upstream.url.startswith("http://[::1]:")
            assert get(upstream, "/simple/six/")[0].status == 200
    except OSError as error:
        pytest.skip(f"no IPv6 loopback here: {error}")


def test_generated_bodies_are_equal_from_every_offset() -> None:
    """A part read alone is the part of the whole."""
    body = Generated(3 * BLOCK + 17, seed=4)
    data = whole(body)
    assert len(data) == body.size
    assert hashlib.sha256(data).hexdigest() == sha256_of(body)
    assert b"".join(body.read(BLOCK - 5, 2 * BLOCK + 5)) == data[BLOCK - 5 : 2 * BLOCK + 5]
    assert b"".join(body.read(body.size - 3, body.size + 99)) == data[-3:]


def test_packages_are_the_same_every_time() -> None:
    """Two builds agree in every byte."""
    assert wheel("a", padding=999).sha256 == wheel("a", padding=999).sha256
    assert sdist("a").sha256 == sdist("a").sha256


def test_sdist_holds_its_metadata() -> None:
    """The archive is where its name says and knows its project."""
    made = sdist("Some.Name", "2.0")
    with tarfile.open(fileobj=io.BytesIO(made.data)) as archive:
        information = archive.extractfile("some_name-2.0/PKG-INFO")
        assert information is not None
        assert b"Version: 2.0" in information.read()


def test_pip_installs_them_from_files(old_pip: Pip, fresh: Callable[[], Fresh], tmp_path: Path) -> None:
    """A wheel with a dependency and an extra, and an sdist that is built, installed without any index."""
    made = [
        wheel("top", requires=["middle>=1"], extras={"more": ["extra_one"]}),
        wheel("middle"),
        wheel("extra-one"),
        sdist("source"),
    ]
    for each in made:
        (tmp_path / each.filename).write_bytes(each.data)
    client = fresh()
    command = [
        old_pip.python,
        "-m",
        "pip",
        "--python",
        client.python,
        "install",
        "--no-index",
        "--find-links",
    ]
    done = run([*map(str, command), tmp_path, "top[more]", "source"], client.environment)
    assert done.returncode == 0, done.stdout
    assert client.version_of("top") == client.version_of("extra_one") == client.version_of("source") == "1.0"


def test_client_environment_keeps_the_machine_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No installer's variable, proxy or configuration file of the machine reaches a client."""
    for name in ("PIP_INDEX_URL", "PIP_FIND_LINKS", "UV_INDEX", "POETRY_HOME", "http_proxy", "NETRC"):
        monkeypatch.setenv(name, "somewhere")
    environment = client_environment(tmp_path)
    assert "somewhere" not in environment.values()
    assert {name for name in environment if name.startswith("PIP_")} == {"PIP_CONFIG_FILE"}
    assert environment["HOME"] == str(tmp_path)


def test_proxy_environment_keeps_the_machine_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine configures the proxy, but what a test gives it does."""
    monkeypatch.setenv("PIPCACHEPROXY_SERVER__PORT", "1")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    environment = clean_environment({"PIPCACHEPROXY_LOG__LEVEL": "debug"})
    assert "PIPCACHEPROXY_SERVER__PORT" not in environment
    assert "HTTPS_PROXY" not in environment
    assert environment["PIPCACHEPROXY_LOG__LEVEL"] == "debug"


def test_config_file_is_toml() -> None:
    """What the harness writes is what a TOML reader reads."""
    settings = {"server": {"host": "::1", "port": 0}, "freshness": {"offline": True, "default_ttl": "5m"}}
    text = toml(settings, [{"name": "a", "url": "http://127.0.0.1:1/simple/"}, {"name": "b\\", "url": "x"}])
    read = tomllib.loads(text)
    assert read.pop("index")[1]["name"] == "b\\"
    assert read == settings


@pytest.mark.parametrize("client", ["pip", "uv"])
def test_a_tripwire_catches_who_goes_elsewhere(client: str, old_pip: Pip, tmp_path: Path) -> None:
    """A client that asks anybody but the loopback is seen, over http and https, and gets nothing."""
    with Tripwire() as wire:
        desk = Desk(tmp_path / "desk", wire.environment)
        python = desk.make_venv()
        for index in ("http://example.com/simple", "https://example.org/simple"):
            by_pip = [str(old_pip.python), "-m", "pip", "--python", str(python), "install", "--retries=0", "-i", index]
            by_uv = [uv.find_uv_bin(), "pip", "install", "--default-index", index]
            words = by_pip if client == "pip" else by_uv
            # Without that pip asks nobody over plain http but the loopback.
            assert desk.attempt(*words, "six", PIP_TRUSTED_HOST="example.com", UV_HTTP_RETRIES="0").returncode != 0
    assert {line.split()[1] for line in wire.caught} >= {"http://example.com/simple/six/", "example.org:443"}
