"""How the proxy authenticates to an index: Basic, Bearer, netrc, or not at all.

Files are read again when they change, so that a token that rotates needs no restart. No secret leaves this
module but in the value of an Authorization field: not in a repr, an error or the log.
"""

from __future__ import annotations

import base64
import logging
import netrc
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from proxy.errors import UpstreamFailed

LARGEST = 64 * 1024
"""Bytes a file with a secret may have."""
SHORTEST = 32
"""Characters a token has that clients show to us: none that could be guessed."""

_log = logging.getLogger("proxy.credentials")
# What distinguishes one content of a file from another; None while there is no file to look at.
_Mark = tuple[int, ...] | None
_UNREAD: _Mark = ()


class Secret(Protocol):
    """A password or a token."""

    def reveal(self) -> str:
        """What it is now; raises UpstreamFailed when nobody can tell."""


class Word:
    """A secret that stays what it is: from the environment."""

    __slots__ = ("_word",)

    def __init__(self, word: str) -> None:
        self._word = word

    def reveal(self) -> str:
        """The word."""
        return self._word


class Kept:
    """A secret in a file: one line, read again when the file changes. While it cannot be read (a rotation may
    be under way) the last one that could counts."""

    __slots__ = ("_mark", "_path", "_read", "_word")

    def __init__(self, path: Path, read: Callable[[Path], str]) -> None:
        self._path = path
        self._read = read
        self._mark = _UNREAD
        self._word: str | None = None

    def reveal(self) -> str:
        """What the file says now."""
        mark = _mark_of(self._path)
        if mark != self._mark:
            self._mark = mark
            try:
                self._word = self._read(self._path)
            except ValueError as error:
                # The mark is kept: one warning for each time the file changes, not for each request.
                _log.warning("%s: %s", self._path, error, extra={"event": "credentials"})
        if self._word is None:
            raise UpstreamFailed("the credentials of the index cannot be read")
        return self._word


class Credentials(Protocol):
    """How an index knows us. Nothing of it may go to another origin than the index's own."""

    def described(self) -> str:
        """A phrase for people, without the secret."""

    def authorization(self) -> str | None:
        """The Authorization field (RFC 9110 §11.6.2) to send now, None for none. Raises UpstreamFailed when
        there should be one and nobody can tell which."""


class Basic:
    """A user name and a password (RFC 7617, in UTF-8)."""

    def __init__(self, username: str, password: Secret) -> None:
        self._username = username
        self._password = password

    def described(self) -> str:
        """Names the user."""
        return f"Basic as {self._username}"

    def authorization(self) -> str:
        """The two, joined and encoded."""
        return _basic(self._username, self._password.reveal())


class Bearer:
    """A token (RFC 6750)."""

    def __init__(self, token: Secret) -> None:
        self._token = token

    def described(self) -> str:
        """Says what it is."""
        return "bearer token"

    def authorization(self) -> str:
        """The token as it is."""
        return f"Bearer {self._token.reveal()}"


class Netrc:
    """What a netrc file says of this very host; its ``default`` entry is for no index: it would give a password
    to whoever is configured next."""

    def __init__(self, host: str, path: Path | None) -> None:
        self._host = host
        self._path = path
        self._mark = _UNREAD
        self._entry: str | None = None

    def described(self) -> str:
        """Whether the file knows the host."""
        return "netrc" if self.authorization() is not None else "none"

    def authorization(self) -> str | None:
        """Basic, when the file has an entry with a password."""
        if self._path is None:
            return None
        mark = _mark_of(self._path)
        if mark != self._mark:
            self._mark = mark
            self._entry = self._read(self._path, mark)
        return self._entry

    def _read(self, path: Path, mark: _Mark) -> str | None:
        if mark is None:
            return None
        try:
            hosts = netrc.netrc(str(path)).hosts if stat.S_ISREG(path.stat().st_mode) else {}
        except (OSError, ValueError, netrc.NetrcParseError):
            # Its own message repeats a word of the file, which may be the password.
            _log.warning("%s: not a netrc file that can be read", path, extra={"event": "credentials"})
            return None
        for host, (login, account, password) in hosts.items():
            if host != "default" and host.lower() == self._host and password:
                try:
                    return _basic(_usable_name(login or account), usable(password))
                except ValueError:
                    _log.warning("%s: an entry that cannot be sent", path, extra={"event": "credentials"})
        return None


def usable(word: str) -> str:
    """The word, without the line end a file gives it. Raises ValueError, which repeats nothing of it, when it is
    empty or holds a control character: that would end a header line, or be dropped by somebody on the way."""
    word = word.rstrip("\r\n")
    if not word:
        raise ValueError("expected a secret, it is empty")
    if not word.isprintable() or word != word.strip():
        raise ValueError("expected one line, without control characters and spaces around it")
    return word


def usable_token(word: str) -> str:
    """A usable word that may stand in a field as it is (RFC 6750 §2.1). Raises ValueError as ``usable``."""
    word = usable(word)
    if not word.isascii() or " " in word:
        raise ValueError("expected a token: letters, digits and marks of ASCII, without spaces")
    return word


def read_secret(path: Path) -> str:
    """The secret in a file. Raises ValueError, which repeats nothing of it, when there is none to be had."""
    try:
        # Without O_NONBLOCK a pipe that nobody writes to would be waited for, by everybody.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            content = file.read(LARGEST + 1) or b""
    except (OSError, ValueError):
        raise ValueError("expected a readable file") from None
    if len(content) > LARGEST:
        raise ValueError("expected a file with nothing but a secret")
    try:
        return usable(content.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("expected text in UTF-8") from None


def read_token(path: Path) -> str:
    """The token in a file; raises ValueError as ``read_secret`` and ``usable_token``."""
    return usable_token(read_secret(path))


def admin_token(word: str) -> str:
    """A usable token that nobody guesses. Raises ValueError as ``usable_token``."""
    if len(word := usable_token(word)) < SHORTEST:
        raise ValueError(f"expected a token of at least {SHORTEST} characters")
    return word


def read_admin_token(path: Path) -> str:
    """That token in a file; raises ValueError as ``read_secret`` and ``admin_token``."""
    return admin_token(read_secret(path))


def netrc_path(environment: Mapping[str, str]) -> Path | None:
    """The file that $NETRC names, else ~/.netrc; None when this user has no home."""
    named = environment.get("NETRC")
    try:
        return Path(named).absolute() if named else Path.home() / ".netrc"
    except RuntimeError:
        return None


def _usable_name(word: str) -> str:
    """A user-id (RFC 7617 §2): with a colon in it, another password would begin there."""
    if ":" in word:
        raise ValueError("expected a user name without a colon")
    return usable(word)


def _basic(username: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{username}:{password}'.encode()).decode('ascii')}"


def _mark_of(path: Path) -> _Mark:
    """Which content a file has, and whether we may read it, as far as its inode tells."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    # With the time of its status: a new file that is given to us by chown or chmod a moment later is a change.
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino
