"""The admin token that the server makes where none is configured: a file in the cache directory, for its owner alone.

Whoever can read it owns the cache anyway. The server writes it, the command reads it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import stat
from pathlib import Path

from proxy.directory import sync_directory

NAME = "admin.token"

_log = logging.getLogger("proxy")
_RANDOM = 32
_SHAPE = re.compile(rb"([A-Za-z0-9_-]{43})\n?")
"""32 random bytes in base64."""


class Unfit(Exception):
    """A file that is no token to be believed; says why in constant words."""


def read(directory: Path) -> str:
    """The token in the cache directory. Raises Unfit for a file that somebody else could have written or may read,
    OSError when there is none that can be opened."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(directory / NAME, flags), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise Unfit("it is not a plain file")
        if found.st_uid != os.geteuid():
            raise Unfit("it belongs to another user")
        if stat.S_IMODE(found.st_mode) != 0o600:
            raise Unfit("others may read it")
        content = _SHAPE.fullmatch(file.read(64))
    if content is None:
        raise Unfit("it does not hold a token of ours")
    return content[1].decode("ascii")


def kept_or_made(directory: Path) -> str:
    """The token in the cache directory, made there when there is none that can be believed. Where the disk does not
    take it, one that only this process knows: the server starts all the same."""
    try:
        return read(directory)
    except FileNotFoundError:
        pass
    except (OSError, Unfit) as error:
        because = str(error) if isinstance(error, Unfit) else "it cannot be read"
        _log.warning("%s is replaced: %s", NAME, because, extra={"event": "admin_token"})
    token = secrets.token_urlsafe(_RANDOM)
    try:
        _write(directory, token)
    except OSError:
        message = "%s cannot be written: the admin API can be used only with a token of [admin]"
        _log.warning(message, NAME, extra={"event": "admin_token"})
    return token


def _write(directory: Path, token: str) -> None:
    fresh = directory / f"{NAME}.new"
    with contextlib.suppress(FileNotFoundError):
        fresh.unlink()  # of a start that was cut short
    opened = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(opened, "wb") as file:
            os.fchmod(opened, 0o600)
            file.write(f"{token}\n".encode("ascii"))
            file.flush()
            os.fsync(opened)
        fresh.rename(directory / NAME)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise
    sync_directory(directory)
