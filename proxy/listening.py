"""Where the server listens: all its sockets are open before the first connection is served, or none is."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import stat
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

from proxy.entrance import Crowd, Entrance, unless_told

_BACKLOG = 1024
_TRIES = 16
"""For port 0 on several addresses: what is free on the first may be taken on the next."""
HANDSHAKE_WITHIN = 10.0
"""Seconds for a TLS handshake, at most."""


class CannotListen(OSError):
    """An address cannot be taken. ``address`` is ``host:port`` or a path, ``key`` the setting that has it."""

    def __init__(self, number: int | None, reason: str, *, address: str, key: str) -> None:
        super().__init__(number, reason)
        self.address = address
        self.key = key


def shown(host: str, port: int) -> str:
    """``host:port`` as a URL has it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Sockets:
    """Open sockets: ``tcp``, all on one port, and ``local``. Nobody has been accepted yet."""

    def __init__(self) -> None:
        self.tcp: list[Entrance] = []
        self.local: Entrance | None = None
        self._path: Path | None = None
        self._made: tuple[int, int] | None = None
        self._servers: list[asyncio.Server] = []

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Host and port of each TCP socket."""
        return [each.getsockname()[:2] for each in self.tcp]

    @property
    def path(self) -> Path | None:
        """Of the local socket."""
        return self._path

    async def open(self, hosts: Sequence[str], port: int, path: Path | None) -> None:
        """Bind and listen. Raises CannotListen, and then nothing is left open."""
        try:
            await self._open_tcp(hosts, port)
            if path is not None:
                self._open_local(path)
        except BaseException:
            self.close()
            raise

    async def serve(
        self,
        protocol: Callable[[], asyncio.Protocol],
        context: ssl.SSLContext | None,
        crowd: Crowd,
        *,
        silence: float,
        stall: float,
    ) -> None:
        """Accept from now on: TLS with that context on TCP, no more than the ``crowd`` may be, from its handshake on.
        Seconds: ``silence`` bounds a handshake, ``stall`` what is left for a client to accept when its TLS connection
        is closed."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(unless_told)
        handshake, shutdown = (None, None) if context is None else (min(HANDSHAKE_WITHIN, silence), stall)
        for each in self.tcp:
            each.crowd = None if context is None else crowd
            server = await loop.create_server(
                protocol,
                sock=each,
                backlog=_BACKLOG,
                ssl=context,
                ssl_handshake_timeout=handshake,
                ssl_shutdown_timeout=shutdown,
            )
            self._servers.append(server)
        if self.local is not None:
            self._servers.append(await loop.create_unix_server(protocol, sock=self.local, backlog=_BACKLOG))

    def close(self) -> None:
        """Accept nobody any more; open connections stay. The local socket's file goes, if it is still ours."""
        for server in self._servers:
            server.close()
        for each in [*self.tcp, *([] if self.local is None else [self.local])]:
            each.close()
        if self._path is not None and self._made is not None:
            with suppress(OSError):
                found = self._path.lstat()
                if (found.st_dev, found.st_ino) == self._made:
                    self._path.unlink()
        self._made = None

    async def _open_tcp(self, hosts: Sequence[str], port: int) -> None:
        for left in reversed(range(_TRIES)):
            try:
                for host in hosts:
                    taken = {address for address, _ in self.addresses}
                    self.tcp += await _bound_to(host, port or (self.addresses[0][1] if self.tcp else 0), taken)
                return
            except CannotListen as error:
                if port or len(hosts) == 1 or error.errno != errno.EADDRINUSE or not left:
                    raise
                for each in self.tcp:
                    each.close()
                self.tcp.clear()

    def _open_local(self, path: Path) -> None:
        opened = Entrance(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _clear(path)
            opened.bind(os.fspath(path))
            # Nobody can connect before listen: there is no moment with the wrong mode.
            path.chmod(0o660)
            made = path.lstat()
            self._path, self._made = path, (made.st_dev, made.st_ino)
            opened.listen(_BACKLOG)
            opened.setblocking(False)
        except OSError as error:
            opened.close()
            raise CannotListen(
                error.errno, os.strerror(error.errno or 0), address=str(path), key="server.unix_socket"
            ) from None
        self.local = opened


async def _bound_to(host: str, port: int, taken: Collection[str]) -> list[Entrance]:
    """Sockets on every address of the host but those that are ``taken`` already, by us. An address that a name has
    and this machine has not is passed over (``localhost`` in a container without IPv6), unless it is the only one."""
    loop = asyncio.get_running_loop()
    opened: list[Entrance] = []
    failed: OSError | None = None
    try:
        try:
            infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, address in dict.fromkeys((info[0], info[4]) for info in infos if info[4][0] not in taken):
                here = opened[0].getsockname()[1] if opened else port
                try:
                    opened.append(_bound(family, (address[0], here, *address[2:])))
                except OSError as error:
                    if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                        raise
                    failed = error
            if failed is not None and not opened:
                raise failed
        except UnicodeError:
            raise OSError(errno.EINVAL, "is not a host name") from None
    except OSError as error:
        for each in opened:
            each.close()
        # asyncio's text repeats the address, the resolver's numbers are negative and its own.
        number = error.errno
        reason = os.strerror(number) if number is not None and number > 0 else str(error.strerror)
        key = "server.port" if number in (errno.EADDRINUSE, errno.EACCES, errno.EPERM) else "server.host"
        raise CannotListen(number, reason, address=shown(host, port), key=key) from None
    return opened


def _bound(family: int, address: tuple[object, ...]) -> Entrance:
    opened = Entrance(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # "::" is IPv6 on every system; who wants both lists both, and gets both or neither.
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.bind(address)
        # Now, and not when it is served: two may be bound to one address, but only one can listen.
        opened.listen(_BACKLOG)
        opened.setblocking(False)
    except OSError:
        opened.close()
        raise
    return opened


def _clear(path: Path) -> None:
    """Remove the socket that a killed server left. Raises OSError when somebody listens on it, and when it is
    something else."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, "is there, and no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass  # its queue is full: somebody is there
    raise OSError(errno.EADDRINUSE, "in use")


def is_everywhere(host: str) -> bool:
    """Whether this is the address of every interface of its family."""
    with suppress(ValueError):
        return ip_address(host).is_unspecified
    return False
