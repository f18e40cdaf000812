"""Asking a running server: HTTP/1.1 with a bearer token, over TCP, TLS or a local socket; nothing but the standard
library, no proxies of the environment, no redirects, and nothing read without a bound."""

from __future__ import annotations

import http.client
import ipaddress
import json
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from proxy import __version__
from proxy.pipwords import Document, shown

if TYPE_CHECKING:
    from proxy.address import Address

EX_UNAVAILABLE, EX_NOPERM, WRONG = 69, 77, 1
CONNECT_WITHIN, LOOKING, CHANGING = 10.0, 120.0, 3_600.0
"""Seconds: to be let in, and that an answer may be silent. Removing all of a large cache on a slow disk takes long."""
PAGE = 10_000
"""Files of a list to ask for at once."""
_LARGEST = 512 * 2**20
"""Bytes of one answer: of a purge it names every file."""
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


class CannotAsk(Exception):
    """No answer. ``line`` says why and what to do, ``code`` is the exit code."""

    def __init__(self, line: str, code: int = EX_UNAVAILABLE) -> None:
        super().__init__(line)
        self.line = line
        self.code = code


class NobodyThere(CannotAsk):
    """No connection."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where to ask. ``name`` is for people, ``prefix`` stands before ``/admin`` (no final slash), ``authority`` is the
    Host field. ``pinned`` is the one certificate (DER) to accept; without, the system's authorities judge it."""

    name: str
    secure: bool
    host: str
    port: int
    authority: str
    prefix: str = ""
    unix_socket: str | None = None
    pinned: bytes | None = field(default=None, repr=False)

    @property
    def near(self) -> bool:
        """Whether only this machine can be at that address."""
        try:
            return self.unix_socket is not None or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def server_at(url: str) -> Server:
    """The server an operator named. Raises ValueError."""
    expected = ValueError('expected the address of a server such as "http://127.0.0.1:3143"')
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise expected from None
    plain = re.fullmatch(r"[\x21-\x7e]+", url) and not (parts.query or parts.fragment or "@" in parts.netloc)
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or not plain:
        raise expected
    secure = parts.scheme == "https"
    prefix = parts.path.rstrip("/")
    return Server(
        f"{parts.scheme}://{parts.netloc}{prefix}",
        secure,
        parts.hostname,
        port or (443 if secure else 80),
        parts.netloc,
        prefix,
    )


def server_of(address: Address) -> Server:
    """The server that left this address: by its socket where it has one, else with the certificate it has."""
    if address.unix_socket is not None:
        return Server(address.unix_socket, False, "", 0, address.host, unix_socket=address.unix_socket)
    at = server_at(address.url or "")
    pinned = None if address.tls_cert is None else _first_certificate(Path(address.tls_cert))
    return Server(at.name, at.secure, at.host, at.port, address.host, pinned=pinned)


class Remote:
    """The verbs, asked of a server. Every call raises CannotAsk."""

    def __init__(self, server: Server, token: str, *, looking: float = LOOKING, changing: float = CHANGING) -> None:
        """Both are seconds that the server may be silent."""
        self._server = server
        self._token = token
        self._looking, self._changing = looking, changing
        self._connection: http.client.HTTPConnection | None = None

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.close()

    def ask(self, verb: str, values: Mapping[str, Any]) -> Document:
        """``dir`` and ``info``, and with ``values`` in the body ``remove`` and ``purge``."""
        body = json.dumps(dict(values)) if verb in ("remove", "purge") else None
        return self._asked(f"/admin/cache/{verb}", body)

    def listed(self, values: Mapping[str, Any], shorten: Callable[[Document], str]) -> list[str]:
        """Every file that is listed, shortened as it comes."""
        rows: list[str] = []
        query: dict[str, Any] = {**values, "limit": PAGE}
        while True:
            page = self._asked(f"/admin/cache/list?{urlencode(query, doseq=True)}", None)
            rows += map(shorten, page["files"])
            if page["cursor"] is None:
                return rows
            if not page["files"] or page["cursor"] == query.get("cursor"):
                raise CannotAsk(f"{self._server.name} sends a list that does not end")
            query["cursor"] = page["cursor"]

    def _asked(self, target: str, body: str | None) -> Document:
        server = self._server
        headers = {
            "Host": server.authority,
            "Accept": "application/json",
            "Authorization": f"Bearer {self._token}",
            "User-Agent": f"pip-cache-proxy/{__version__}",
        }
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection = self._connected()
        # From here on every wait is for the server's work. A connection it closed is made again by itself.
        connection.timeout = self._looking if body is None else self._changing
        if connection.sock is not None:
            connection.sock.settimeout(connection.timeout)
        try:
            connection.request("GET" if body is None else "POST", f"{server.prefix}{target}", body, headers)
            answer = connection.getresponse()
            content = answer.read(_LARGEST + 1)
        except TimeoutError:
            self.close()
            raise CannotAsk(f"{server.name} does not answer; look at its log") from None
        except (OSError, http.client.HTTPException):
            self.close()
            # Nobody knows how far it came: this is not asked again by itself.
            raise CannotAsk(f"{server.name} hung up before it had answered; look at its log") from None
        if len(content) > _LARGEST:
            raise CannotAsk(f"{server.name} answers with more than can be read; narrow it with a pattern")
        return self._understood(answer.status, content)

    def _connected(self) -> http.client.HTTPConnection:
        if self._connection is None:
            connection = _line_to(self._server)
            try:
                connection.connect()
            except OSError as error:
                raise _unreached(self._server, error) from None
            self._connection = connection
        return self._connection

    def _understood(self, status: int, content: bytes) -> Document:
        name = self._server.name
        try:
            document = json.loads(content)
        except (ValueError, RecursionError):
            document = None
        if status == 200 and isinstance(document, dict):
            return document
        because = shown(str(document.get("because", "")))[:200] if isinstance(document, dict) else ""
        said = f"{status}, {because}" if because else str(status)
        if status == 400 and because:
            raise CannotAsk(because, WRONG)
        if status in (401, 403):
            raise CannotAsk(f"{name} refuses the token ({said}); give its own with --token-file", EX_NOPERM)
        if 300 <= status < 400:
            raise CannotAsk(f"{name} leads elsewhere ({status}); give the address it leads to with --url")
        if because and status != 404:
            raise CannotAsk(f"{name} cannot do it ({said}); look at its log")
        raise CannotAsk(f"{name} answers as no pip-cache-proxy does ({status}); give its own address with --url")


def _line_to(server: Server) -> http.client.HTTPConnection:
    if server.unix_socket is not None:
        return _Local(server.unix_socket)
    if not server.secure:
        return http.client.HTTPConnection(server.host, server.port, timeout=CONNECT_WITHIN)
    import ssl

    context = ssl.create_default_context()
    if server.pinned is None:
        return http.client.HTTPSConnection(server.host, server.port, timeout=CONNECT_WITHIN, context=context)
    # What it must be is known to the byte: neither its names nor who signed it matter then.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return _Pinned(server, context)


class _Local(http.client.HTTPConnection):
    """Over a local socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=CONNECT_WITHIN)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(CONNECT_WITHIN)
        try:
            self.sock.connect(self._path)
        except OSError:
            self.close()
            raise


class _Pinned(http.client.HTTPSConnection):
    """Over TLS, with a server that shows one certain certificate. It is looked at before anything is said."""

    def __init__(self, server: Server, context: Any) -> None:
        super().__init__(server.host, server.port, timeout=CONNECT_WITHIN, context=context)
        self._server = server

    def connect(self) -> None:
        super().connect()
        if self.sock.getpeercert(binary_form=True) != self._server.pinned:
            self.close()
            advice = "send the server SIGHUP when the file is newer"
            raise CannotAsk(f"{self._server.name} shows another certificate than its tls_cert; {advice}")


def _unreached(server: Server, error: OSError) -> CannotAsk:
    """Why there is no connection."""
    verify = getattr(error, "verify_message", None)
    if verify is not None:
        advice = "SSL_CERT_FILE names a file with its authority"
        return CannotAsk(f"the certificate of {server.name} is not trusted ({shown(str(verify))}); {advice}")
    if isinstance(error, TimeoutError):
        return CannotAsk(f"{server.name} does not answer; is the address right?")
    why = shown(error.strerror or "no connection")
    return NobodyThere(f"{server.name} cannot be reached ({why}); does the server run there?")


def _first_certificate(path: Path) -> bytes:
    """The certificate a server shows that has this file; what follows it is its chain."""
    import ssl

    try:
        found = _PEM.search(path.read_text("latin-1"))
        return ssl.PEM_cert_to_DER_cert(found[0] if found else "")
    except (OSError, ValueError):
        raise CannotAsk(f"{path}: the server's certificate cannot be read; ask it with --url", EX_NOPERM) from None
