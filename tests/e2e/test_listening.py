"""Where the server listens: TLS and its certificate, several addresses, IPv6, and the local socket."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

from proxy.cli import EX_CONFIG, EX_OSERR
from proxy.tls import server_context
from tests.harness.behaviours import Answer
from tests.harness.certificates import Pair, pair
from tests.harness.exchange import Gate
from tests.harness.fetch import Fetched, fetch
from tests.harness.packages import blob, wheel
from tests.harness.server import ProxyServer, Settings
from tests.harness.waiting import eventually
from tests.harness.world import AS_JSON, PATIENCE, World, fresh_name, heard, world

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Secure:
    """A world whose proxy speaks HTTPS, and what its clients trust."""

    world: World
    pair: Pair

    def get(self, path: str, headers: dict[str, str] | None = None, method: str = "GET") -> Fetched:
        """A request over TLS."""
        return self.world.get(path, headers, method, trust=self.pair.trust())

    def connect(self, small: bool = False, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
        """A connection after its handshake, on which an end without close_notify is an error; ``small``: with a
        receive buffer that a slow reader soon fills."""
        address = (self.world.proxy.host, self.world.proxy.port)
        plain = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        plain.settimeout(PATIENCE)
        if small:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        plain.connect(address)
        context = context or self.pair.trust()
        return context.wrap_socket(plain, server_hostname=address[0], suppress_ragged_eofs=False)


def ask(connection: socket.socket, path: str, *fields: str) -> None:
    """A GET without waiting for what it brings."""
    lines = "".join(f"{field}\r\n" for field in fields)
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode())


def all_of(connection: socket.socket, begun: bytes = b"") -> tuple[bytes, bool]:
    """Everything until the end, and whether that was a clean one."""
    data = begun
    try:
        while piece := connection.recv(65536):
            data += piece
    except (ConnectionError, ssl.SSLEOFError, ssl.SSLSyscallError):
        return data, False
    return data, True


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    """One proxy over TLS that most tests share."""
    directory = tmp_path_factory.mktemp("tls")
    made = pair(directory / "pem")
    with world(directory, {"server": made.settings}) as running:
        yield Secure(running, made)


# --- TLS

# A ClientHello of TLS 1.1 with two cipher suites that it had (RFC 4346 §7.4.1.2).
TLS_1_1 = b"\x16\x03\x01\x00\x2f\x01\x00\x00\x2b\x03\x02" + bytes(32) + b"\x00\x00\x04\xc0\x14\x00\x35\x01\x00"


def test_pages_and_files_over_tls(here: Secure) -> None:
    """Cold and warm, whole and in parts, GET and HEAD: the bytes are those of plain http."""
    name = fresh_name()
    file = here.world.publish(blob(name, size=3 * MIB + 17))
    page = here.get(f"/simple/{name}/", AS_JSON)
    assert (page.status, name.encode() in page.body) == (200, True)
    path = here.world.path_of(file)
    cold = here.get(path)
    assert (cold.status, cold.sha256, cold.complete) == (200, file.sha256, True)
    eventually(lambda: here.get(path, method="HEAD").hit, "the file is kept")
    warm = here.get(path)
    assert (warm.hit, warm.sha256) == (True, file.sha256)
    head = here.get(path, method="HEAD")
    assert (head.headers["content-length"], head.body) == (str(file.size), b"")
    part = here.get(path, {"Range": "bytes=1000000-1999999"})
    assert (part.status, part.body) == (206, warm.body[1_000_000:2_000_000])
    rest = here.get(path, {"Range": "bytes=3000000-", "If-Range": warm.headers["etag"]})
    assert (rest.status, rest.body) == (206, warm.body[3_000_000:])
    assert here.get(path, {"If-None-Match": warm.headers["etag"]}).status == 304
    assert "Traceback" not in here.world.proxy.stderr


def test_the_start_line_over_tls(tmp_path: Path) -> None:
    """It says https, and what a client with an authority of its own needs instead of PIP_TRUSTED_HOST."""
    made = pair(tmp_path / "pem")
    with world(tmp_path, {"server": made.settings, "log": {"format": "text"}}) as running:
        line = next(line for line in running.proxy.stderr.splitlines() if "PIP_INDEX_URL" in line)
        assert f"set PIP_INDEX_URL=https://127.0.0.1:{running.proxy.port}/simple" in line
        assert "PIP_CERT" in line
        assert "SSL_CERT_FILE" in line
        assert "PIP_TRUSTED_HOST" not in line


def test_what_is_negotiated(here: Secure) -> None:
    """HTTP/1.1, and TLS 1.2 or newer; a client that is older than that is refused."""
    context = here.pair.trust()
    context.set_alpn_protocols(["h2", "http/1.1"])
    for newest in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context.maximum_version = newest
        with here.connect(context=context) as connection:
            assert connection.selected_alpn_protocol() == "http/1.1"
            assert connection.version() == newest.name.replace("_", ".")
    with socket.create_connection((here.world.proxy.host, here.world.proxy.port), timeout=PATIENCE) as old:
        old.sendall(TLS_1_1)
        assert not old.recv(1)
    assert server_context(here.pair.certificate, here.pair.key).minimum_version is ssl.TLSVersion.TLSv1_2


def test_a_cut_over_tls_looks_like_one(here: Secure) -> None:
    """A file that ends early upstream ends without close_notify: no client takes a part for the whole."""
    name = fresh_name()
    file = here.world.publish(blob(name, size=2 * MIB))
    here.get(f"/simple/{name}/", AS_JSON)
    here.world.script_file(file, Answer(corrupt=MIB))
    with here.connect() as connection:
        ask(connection, here.world.path_of(file), "Connection: close")
        data, clean = all_of(connection)
    assert heard(data, False).status == 200
    assert len(heard(data, False).body) < file.size
    assert not clean
    assert "Traceback" not in here.world.proxy.stderr


def test_a_client_that_does_not_read_is_cut_over_tls(tmp_path: Path) -> None:
    """After write_stall, as over plain http."""
    made = pair(tmp_path / "pem")
    with world(tmp_path, {"server": made.settings, "limits": {"write_stall": "1s"}}) as running:
        there = Secure(running, made)
        file = running.publish(blob("big", size=24 * MIB))
        there.get("/simple/big/", AS_JSON)
        assert there.get(running.path_of(file)).sha256 == file.sha256
        with there.connect(small=True) as connection:
            ask(connection, running.path_of(file))
            begun = connection.recv(1000)
            running.proxy.wait_for_log(lambda lines: any(line.get("aborted") for line in lines))
            data, clean = all_of(connection, begun)
        assert (clean, len(data) < file.size) == (False, True)
        assert "Traceback" not in running.proxy.stderr


def test_a_client_that_leaves_over_tls(here: Secure) -> None:
    """In the middle of a file: one log line, no trace, and the download goes on for the next one."""
    name = fresh_name()
    file = here.world.publish(blob(name, size=4 * MIB))
    gate = Gate()
    here.get(f"/simple/{name}/", AS_JSON)
    here.world.script_file(file, Answer(stall_after=MIB, gate=gate))
    with here.connect() as connection:
        ask(connection, here.world.path_of(file))
        assert connection.recv(1000)
        assert gate.reached.wait(PATIENCE)
    gate.open()
    assert here.get(here.world.path_of(file)).sha256 == file.sha256
    assert len([each for each in here.world.file_requests(file) if each.method == "GET"]) == 1
    assert "Traceback" not in here.world.proxy.stderr


def test_plain_http_at_the_tls_port(here: Secure) -> None:
    """Ends at once, with no answer that could be taken for one, and leaves nothing in the log."""
    said = here.world.say("GET /simple/ HTTP/1.1\r\nHost: x\r\n\r\n")
    assert said.status == 0
    assert here.get("/healthz").status == 200
    for text in ("Traceback", "SSLError", "ssl.", "asyncio"):
        assert text not in here.world.proxy.stderr


def test_a_client_that_says_nothing_at_the_tls_port(tmp_path: Path) -> None:
    """A handshake takes no longer than the headers of a request may."""
    made = pair(tmp_path / "pem")
    with world(tmp_path, {"server": made.settings, "limits": {"keepalive_timeout": "1s"}}) as running:
        with running.connect() as silent:
            assert all_of(silent)[0] == b""
        assert Secure(running, made).get("/healthz").status == 200
        assert "Traceback" not in running.proxy.stderr


def test_clients_that_say_nothing_do_not_crowd_the_tls_port(tmp_path: Path) -> None:
    """A connection counts before its handshake, too, when it costs the most: beyond the limit it is closed at once,
    another address has its own, and a place that becomes free is free."""
    made = pair(tmp_path / "pem")
    limits = {"client_connections_per_address": 5, "keepalive_timeout": "1h"}
    with world(tmp_path, {"server": made.settings, "limits": limits}) as running, ExitStack() as open_ones:

        def from_address(address: str) -> socket.socket:
            place = (running.proxy.host, running.proxy.port)
            return open_ones.enter_context(socket.create_connection(place, PATIENCE, (address, 0)))

        silent = [from_address("127.0.0.2") for _ in range(5)]
        assert all_of(from_address("127.0.0.2"))[0] == b""
        assert select.select(silent, [], [], 0)[0] == []  # those inside still are
        secure = Secure(running, made)
        assert secure.get("/healthz").status == 200
        silent.pop().close()

        def free() -> bool:
            try:
                with made.trust().wrap_socket(from_address("127.0.0.2"), server_hostname="127.0.0.1"):
                    return True
            except OSError:
                return False

        eventually(free, "a place becomes free")
        assert "Traceback" not in running.proxy.stderr


def test_the_end_drains_over_tls(tmp_path: Path) -> None:
    """A download under way arrives whole, an idle connection is closed cleanly and holds nobody up; exit 0."""
    made = pair(tmp_path / "pem")
    with world(tmp_path, {"server": made.settings}) as running:
        there = Secure(running, made)
        file = running.publish(blob("big", size=2 * MIB))
        gate, begun = Gate(), threading.Event()
        running.script_file(file, Answer(stall_after=MIB, gate=gate))
        there.get("/simple/big/", AS_JSON)

        def begin(_: int) -> None:
            begun.set()

        with there.connect() as idle, ThreadPoolExecutor(1) as pool:
            ask(idle, "/healthz")
            assert heard(idle.recv(65536), False).status == 200
            url = f"{running.proxy.url}{running.path_of(file)}"
            job = pool.submit(fetch, url, progress=begin, trust=made.trust())
            assert begun.wait(PATIENCE)
            running.proxy.signal(signal.SIGTERM)
            assert all_of(idle)[1]
            gate.open()
            got = job.result()
        assert (got.complete, got.sha256) == (True, file.sha256)
        assert running.proxy.process.wait(10) == 0


def test_the_end_waits_for_slow_readers(tmp_path: Path) -> None:
    """What was written for a client but not taken by the network yet is part of what is under way: over TLS up to
    half a megabyte waits in the process."""
    made = pair(tmp_path / "pem")
    with world(tmp_path, {"server": made.settings}) as running:
        there = Secure(running, made)
        file = running.publish(blob("big", size=16 * MIB + 40_000))
        there.get("/simple/big/", AS_JSON)
        path = running.path_of(file)
        whole = there.get(path)
        running.proxy.wait_for_log(lambda lines: any(each.get("path") == path for each in lines))
        running.proxy.forget()
        with there.connect(small=True) as connection:
            ask(connection, path)
            data = bytearray()
            while not running.proxy.requests(path):
                data += connection.recv(16384)
                time.sleep(0.002)  # slower than the proxy, so that all buffers on the way are full
            # For the proxy this answer is done; its end is still on the way.
            assert len(data) < file.size
            running.proxy.signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                running.proxy.process.wait(2)
            data += all_of(connection)[0]
        assert heard(bytes(data), False).body == whole.body
        assert running.proxy.process.wait(10) == 0


# --- the certificate while we run


def seen_by(address: tuple[str, int]) -> bytes:
    """The certificate a new connection is shown."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(address, timeout=PATIENCE) as plain, context.wrap_socket(plain) as connection:
        shown = connection.getpeercert(binary_form=True)
        assert shown is not None
        return shown


def certificate_of(made: Pair) -> bytes:
    """What is in the file, as a connection shows it."""
    first = made.certificate.read_text().partition("-----END CERTIFICATE-----\n")
    return ssl.PEM_cert_to_DER_cert(first[0] + first[1])


def test_sighup_reads_the_certificate_again(tmp_path: Path) -> None:
    """New handshakes get the new one, connections that are open go on with theirs; a broken pair changes nothing."""
    directory, authority = tmp_path / "pem", trustme.CA()
    made = pair(directory, authority=authority)
    with world(tmp_path, {"server": made.settings}) as running:
        there, address = Secure(running, made), (running.proxy.host, running.proxy.port)
        first = certificate_of(made)
        assert seen_by(address) == first
        with there.connect() as connection:
            pair(directory, authority=authority)
            assert seen_by(address) == first
            running.proxy.signal(signal.SIGHUP)
            running.proxy.wait_for_log(lambda lines: any(line["event"] == "certificate" for line in lines))
            second = certificate_of(made)
            assert seen_by(address) == second != first
            made.key.write_bytes(made.key.read_bytes()[:100])
            running.proxy.signal(signal.SIGHUP)
            lines = running.proxy.wait_for_log(lambda lines: any(line["event"] == "certificate_kept" for line in lines))
            (error,) = [line for line in lines if line["event"] == "certificate_kept"]
            assert (error["level"], "server.tls_key" in error["message"]) == ("error", True)
            assert seen_by(address) == second
            ask(connection, "/healthz")
            assert heard(connection.recv(65536), False).status == 200
        pair(directory, authority=authority)
        running.proxy.signal(signal.SIGHUP)
        eventually(lambda: seen_by(address) == certificate_of(made), "a good pair is taken again")
        assert running.proxy.terminate() == 0


def test_sighup_without_a_certificate_changes_nothing(tmp_path: Path) -> None:
    """It is what some supervisors send; the default would be to end."""
    with world(tmp_path) as running:
        running.proxy.signal(signal.SIGHUP)
        running.proxy.wait_for_log(lambda lines: any(line["event"] == "nothing_to_reload" for line in lines))
        assert running.get("/healthz").status == 200


# --- several addresses


def test_ipv4_and_ipv6_at_one_port(tmp_path: Path) -> None:
    """Port 0 takes one that is free on all; the start line names every address, the first for clients."""
    with world(tmp_path, {"server": {"host": ["127.0.0.1", "::1"]}}) as running:
        port = running.proxy.port
        assert running.proxy.addresses == [f"127.0.0.1:{port}", f"[::1]:{port}"]
        (line,) = running.proxy.log_lines("started")
        assert f"listens on 127.0.0.1:{port} and [::1]:{port};" in line["message"]
        assert line["index_url"] == f"http://127.0.0.1:{port}/simple"
        running.publish(wheel("six"))
        for host in ("127.0.0.1", "[::1]"):
            assert fetch(f"http://{host}:{port}/simple/six/", AS_JSON).status == 200
        assert {line["client"] for line in running.proxy.wait_for_log(lambda lines: len(lines) >= 3)[1:]} == {
            "127.0.0.1",
            "::1",
        }


@pytest.mark.parametrize(("host", "other"), [("::", "127.0.0.1"), ("0.0.0.0", "::1")])
def test_everywhere_is_everywhere_of_one_family(tmp_path: Path, host: str, other: str) -> None:
    """"::" is IPv6 and nothing else on every system: who wants both lists both."""
    with world(tmp_path, {"server": {"host": host}}) as running:
        own = "[::1]" if host == "::" else "127.0.0.1"
        assert fetch(f"http://{own}:{running.proxy.port}/healthz").status == 200
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((other, running.proxy.port), timeout=PATIENCE)


def test_a_name_is_all_its_addresses(tmp_path: Path) -> None:
    """localhost: whatever of 127.0.0.1 and ::1 the system says, on one port."""
    with world(tmp_path, {"server": {"host": "localhost"}}) as running:
        found = {info[4][0] for info in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)}
        assert {address.rpartition(":")[0].strip("[]") for address in running.proxy.addresses} <= found
        assert len({address.rpartition(":")[2] for address in running.proxy.addresses}) == 1


@pytest.mark.parametrize("hosts", [["localhost", "127.0.0.1"], ["::1", "0:0:0:0:0:0:0:1"]])
def test_an_address_that_is_named_twice(tmp_path: Path, hosts: list[str]) -> None:
    """It is listened on once: that it is taken by ourselves is no mistake of the operator's."""
    with world(tmp_path, {"server": {"host": hosts}}) as running:
        assert len(set(running.proxy.addresses)) == len(running.proxy.addresses)
        assert running.get("/healthz").status == 200


def test_curl_over_ipv6_and_tls(tmp_path: Path) -> None:
    """``curl -k https://[::1]:PORT/simple/{project}/`` works, and with the authority it needs no -k."""
    made = pair(tmp_path / "pem")
    with world(tmp_path, {"server": {**made.settings, "host": "::1"}}) as running:
        running.publish(wheel("six"))
        url = f"{running.proxy.url}/simple/six/"
        assert url.startswith("https://[::1]:")
        curl = shutil.which("curl")
        if curl is None:
            pytest.skip("curl is not installed")
        for trust in (["-k"], ["--cacert", str(made.authority)]):
            command = [curl, "-q", "--noproxy", "*", "-sS", "--fail", "-m", "20", *trust, url]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert (done.returncode, "six-1.0" in done.stdout) == (0, True), done.stderr


def test_one_address_that_cannot_be_had_is_all(tmp_path: Path, near: Path) -> None:
    """Error 71 names the address; nobody listens on the others, and the local socket was not made."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
        path = near / "socket"
        settings = {"server": {"host": ["127.0.0.1", "::1"], "port": port, "unix_socket": str(path)}}
        proxy = ProxyServer(tmp_path / "proxy", {"test": "http://127.0.0.1:1/"}, settings=settings)
        with pytest.raises(AssertionError, match=f"ended with {EX_OSERR}") as caught:
            proxy.start()
        assert f"server.port: [::1]:{port} is in use" in str(caught.value)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        assert not path.exists()


# --- the local socket


def at_socket(path: Path, request: str) -> bytes:
    """Raw words to the local socket, and all it says until it closes."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(str(path))
        connection.sendall(request.encode())
        return all_of(connection)[0]


CLOSE = "HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n"


def test_the_local_socket(tmp_path: Path, near: Path) -> None:
    """Beside TCP: pages and files, mode 0660 whatever the umask; its file goes with the server."""
    path = near / "run" / "socket"
    path.parent.mkdir()
    with world(tmp_path, {"server": {"unix_socket": str(path)}}) as running:
        assert running.proxy.unix_socket == path
        assert (stat.S_ISSOCK(path.stat().st_mode), stat.S_IMODE(path.stat().st_mode)) == (True, 0o660)
        file = running.publish(blob("big", size=MIB))
        assert running.page("big").status == 200
        for _ in range(2):
            got = heard(at_socket(path, f"GET {running.path_of(file)} {CLOSE}\r\n"), False)
            assert (got.status, got.body == running.file(file).body) == (200, True)
        lines = running.proxy.wait_for_log(lambda lines: "unix" in [line.get("client") for line in lines])
        assert {line["client"] for line in lines if line["event"] == "request"} == {"unix", "127.0.0.1"}
        assert running.proxy.terminate() == 0
        assert not path.exists()


def test_the_local_socket_alone(tmp_path: Path, near: Path) -> None:
    """``host = []``: no TCP; a killed server's file is in nobody's way, a living one's is respected."""
    path = near / "socket"
    settings = {"server": {"host": [], "unix_socket": str(path)}}
    with world(tmp_path, settings) as running:
        assert (running.proxy.host, running.proxy.port, running.proxy.addresses) == ("", 0, [])
        assert b" 200 " in at_socket(path, f"GET /healthz {CLOSE}\r\n")
        second = ProxyServer(tmp_path / "second", {"test": "http://127.0.0.1:1/"}, settings=settings)
        with pytest.raises(AssertionError, match=f"ended with {EX_OSERR}") as caught:
            second.start()
        assert f"server.unix_socket: {path} is in use" in str(caught.value)
        running.proxy.kill()
        assert path.exists()
        running.proxy.start()
        assert b" 200 " in at_socket(path, f"GET /healthz {CLOSE}\r\n")
        # Whoever takes our place in the meantime keeps it.
        path.unlink()
        with closing(socket.socket(socket.AF_UNIX)) as another:
            another.bind(str(path))
            assert running.proxy.terminate() == 0
            assert path.exists()


@pytest.mark.parametrize("there", ["file", "directory"])
def test_the_local_socket_removes_nothing_else(tmp_path: Path, near: Path, there: str) -> None:
    """What is no socket stays, and the line names the key and the path."""
    path = near / "place"
    if there == "file":
        path.write_text("precious")
    else:
        path.mkdir()
    proxy = ProxyServer(
        tmp_path / "proxy", {"test": "http://127.0.0.1:1/"}, settings={"server": {"unix_socket": str(path)}}
    )
    with pytest.raises(AssertionError, match=f"ended with {EX_OSERR}") as caught:
        proxy.start()
    assert f"server.unix_socket: cannot listen on {path}: {os.strerror(17)}" in str(caught.value)
    assert path.exists()


def test_a_local_socket_nowhere(tmp_path: Path, near: Path) -> None:
    """A directory that is not there is a bad setting, as `check` says too."""
    settings: Settings = {"server": {"unix_socket": str(near / "nowhere" / "socket")}}
    with pytest.raises(AssertionError, match=f"ended with {EX_CONFIG}") as caught:
        ProxyServer(tmp_path / "proxy", {"test": "http://127.0.0.1:1/"}, settings=settings).start()
    assert "server.unix_socket: expected a path in a directory that is there" in str(caught.value)


# --- who asked


def test_the_client_behind_a_trusted_proxy(tmp_path: Path, near: Path) -> None:
    """The log names the address a trusted proxy saw; one that a client invents is not believed."""
    path = near / "socket"
    server = {"unix_socket": str(path), "trusted_proxies": ["127.0.0.2", "unix"], "host": ["127.0.0.1", "127.0.0.2"]}
    with world(tmp_path, {"server": server}) as running:

        def client_of(said: str) -> str:
            number = len(running.proxy.requests())
            at_socket(path, f"GET /healthz {CLOSE}{said}\r\n")
            running.proxy.wait_for_log(lambda _: len(running.proxy.requests()) > number)
            return str(running.proxy.requests()[-1]["client"])

        assert client_of("") == "unix"
        assert client_of("X-Forwarded-For: 192.0.2.1\r\n") == "192.0.2.1"
        assert client_of("X-Forwarded-For: 10.0.0.1, 192.0.2.1, 127.0.0.2\r\n") == "192.0.2.1"
        assert client_of("X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: nonsense\r\n") == "unix"
        number = len(running.proxy.requests())
        running.get("/healthz", {"X-Forwarded-For": "192.0.2.1"})
        running.proxy.wait_for_log(lambda _: len(running.proxy.requests()) > number)
        assert running.proxy.requests()[-1]["client"] == "127.0.0.1"


def roots(running: World, name: str, fields: dict[str, str], **how: Any) -> str:
    """What stands before ``/files/`` in the JSON API's answer to a request with these fields."""
    got = running.get(f"/pypi/{name}/json", fields, **how)
    (only,) = json.loads(got.body)["urls"]
    return str(only["url"].partition("/files/")[0])


FORWARDED = {"Host": "127.0.0.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "Pypi.example.com:8443"}


def test_whole_urls_say_how_the_client_came(tmp_path: Path, here: Secure) -> None:
    """The scheme and the Host of the request, or what a trusted proxy says of them; never another client's."""
    name = fresh_name()
    here.world.publish(wheel(name))
    trust = here.pair.trust()
    assert roots(here.world, name, {}, trust=trust) == here.world.proxy.url
    assert roots(here.world, name, FORWARDED, trust=trust) == "https://127.0.0.1"
    assert roots(here.world, name, {"Host": "a@b"}, trust=trust) == here.world.proxy.url
    with world(tmp_path, {"server": {"trusted_proxies": ["127.0.0.0/8"]}}) as running:
        running.publish(wheel(name))
        for _ in range(2):
            assert roots(running, name, {}) == running.proxy.url
            assert roots(running, name, FORWARDED) == "https://pypi.example.com:8443"
            assert roots(running, name, {"Host": "example.com"}) == "http://example.com"


def test_the_public_url_in_the_start_line(tmp_path: Path, near: Path) -> None:
    """What clients are told is the address in front."""
    server = {"public_url": "https://example.com/pypi/", "host": [], "unix_socket": str(near / "socket")}
    with world(tmp_path, {"server": server}) as running:
        (line,) = running.proxy.log_lines("started")
        assert line["index_url"] == "https://example.com/pypi/simple"
        assert re.search(r"set PIP_INDEX_URL=https://example\.com/pypi/simple$", line["message"])


# --- how many, how long

BEGUN = {
    "nothing": b"",
    "half a head": b"GET /healthz HTTP/1.1\r\nHost: x\r\n",
    "half a second head": b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n",
}


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A proxy that waits a second for a head."""
    with world(tmp_path_factory.mktemp("impatient"), {"limits": {"keepalive_timeout": "1s"}}) as running:
        yield running


@pytest.mark.parametrize("begun", BEGUN)
def test_a_head_that_does_not_end(impatient: World, begun: str) -> None:
    """A client that drips its head is cut when keepalive_timeout is over; each drop does not begin it anew."""
    with impatient.connect() as connection:
        connection.sendall(BEGUN[begun])
        connection.settimeout(0.2)
        said = []

        def cut() -> bool:
            try:
                if begun != "nothing":
                    connection.sendall(b"X-Drop: 1\r\n")
                said.append(connection.recv(65536))
            except TimeoutError:
                return False
            except ConnectionError:
                return True
            return not said[-1]

        eventually(cut, "the connection is cut")
    assert impatient.get("/healthz").status == 200


def test_one_address_cannot_take_all_connections(tmp_path: Path) -> None:
    """Beyond client_connections_per_address a connection is closed at once; other addresses and trusted proxies
    have theirs, and a place that becomes free is free."""
    server = {"trusted_proxies": ["127.0.0.3"]}
    settings: dict[str, dict[str, Any]] = {"server": server, "limits": {"client_connections_per_address": 2}}
    with world(tmp_path, settings) as running, ExitStack() as open_ones:

        def from_address(address: str) -> socket.socket:
            made = socket.create_connection((running.proxy.host, running.proxy.port), PATIENCE, (address, 0))
            made.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            return made

        def answered(connection: socket.socket) -> bool:
            try:
                return connection.recv(65536).startswith(b"HTTP/1.1 200")
            except ConnectionError:
                return False

        held = [open_ones.enter_context(from_address("127.0.0.1")) for _ in range(2)]
        assert all(map(answered, held))
        with from_address("127.0.0.1") as refused:
            assert not answered(refused)
        with from_address("127.0.0.2") as other:
            assert answered(other)
        proxies = [open_ones.enter_context(from_address("127.0.0.3")) for _ in range(4)]
        assert all(map(answered, proxies))
        held.pop().close()

        def free() -> bool:
            with from_address("127.0.0.1") as again:
                return answered(again)

        eventually(free, "a place becomes free")
