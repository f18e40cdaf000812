"""``<cache dir>/address``: where the server that holds the directory can be asked from this machine.

Written for the command, which finds the directory by its settings. Whoever reads it believes it only while that very
process holds the lock: after a kill the file stays, and somebody else may listen there.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

_log = logging.getLogger("proxy")
_NAME = "address"
_LARGEST = 16 * 1024
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # nosec B104 # what to call it, not where to listen


@dataclass(frozen=True, slots=True)
class Address:
    """``url`` has no path, None without TCP; ``host`` is the Host field to send there. ``unix_socket`` and
    ``tls_cert`` (PEM, what the server shows) are absolute paths or None. ``pid`` is the server's."""

    url: str | None
    host: str
    unix_socket: str | None
    tls_cert: str | None
    pid: int


def address_for(
    addresses: Sequence[tuple[str, int]], unix_socket: Path | None, tls_cert: Path | None, hosts: Sequence[str]
) -> Address:
    """Of a server that listens on these (host, port) pairs and on that socket. ``hosts`` are the Host fields it
    answers to, none means any."""
    url, own = None, "localhost"
    if addresses:
        host, port = addresses[0]
        host = _EVERYWHERE.get(host, host)
        # A scope (RFC 4007) tells our own system which link, and is no part of a Host field.
        bare = f"[{host.partition('%')[0]}]" if ":" in host else host
        own = f"{bare}:{port}"
        url = f"{'http' if tls_cert is None else 'https'}://{f'[{host}]' if ':' in host else host}:{port}"
        if bare in hosts:
            hosts = ()
    return Address(
        url,
        own if not hosts or own in hosts else hosts[0],
        None if unix_socket is None else os.path.abspath(unix_socket),
        None if tls_cert is None else os.path.abspath(tls_cert),
        os.getpid(),
    )


def withdraw(directory: Path) -> None:
    """What a server that was killed left behind is not true any more, also where ours has the same number."""
    with suppress(OSError):
        (directory / _NAME).unlink()


@contextmanager
def published(directory: Path, address: Address) -> Iterator[None]:
    """The file is there inside. A disk that cannot take it is no reason not to serve."""
    try:
        _write(directory, address)
    except OSError as error:
        _log.warning(
            "%s cannot be written (%s): the command will not find this server without --url",
            directory / _NAME,
            error.strerror,
            extra={"event": "address"},
        )
    try:
        yield
    finally:
        withdraw(directory)


def find(directory: Path) -> Address | None:
    """What the file says, None when there is none that can be read."""
    try:
        with open(directory / _NAME, "rb") as file:
            found = Address(**json.loads(file.read(_LARGEST)))
    except (OSError, ValueError, TypeError):
        return None
    return found


def _write(directory: Path, address: Address) -> None:
    fresh = directory / f"{_NAME}.new"
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(descriptor, 0o600)
            file.write(json.dumps(asdict(address)) + "\n")
        fresh.rename(directory / _NAME)
    except OSError:
        with suppress(OSError):
            fresh.unlink()
        raise
