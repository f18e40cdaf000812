"""``pip-cache-proxy cache``: the verbs of ``pip cache``, asked of the server, or done where none runs.

What pip says, this says in pip's words, on the same stream, with pip's exit code. What pip does not know (a server
that does not answer, a token that is refused) is one line on standard error that begins with our name.
"""

from __future__ import annotations

import json
import os
import stat
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from proxy import pipwords
from proxy.cacheoptions import CHANGES, WRONG, Question, WrongUse, read
from proxy.pipwords import Document
from proxy.remote import EX_NOPERM, CannotAsk, NobodyThere, Remote, server_at, server_of

if TYPE_CHECKING:
    from proxy.config import Settings

EX_CANTCREAT, EX_TEMPFAIL, EX_CONFIG = 73, 75, 78
PATIENCE = 10.0
"""Seconds for a server to say where it listens, or for another command to be done."""
URL = "PIPCACHEPROXY_URL"


class Cache(Protocol):
    """Whoever can be asked."""

    def ask(self, verb: str, values: dict[str, Any]) -> Document:
        """The answer of the admin API to that verb."""

    def listed(self, values: dict[str, Any], shorten: Callable[[Document], str]) -> list[str]:
        """Every file of a list, shortened as it comes."""


def main(words: Sequence[str]) -> int:
    """Do what these words say (without ``cache``); the exit code."""
    try:
        lines, warning = _done(read(words))
        if warning is not None:
            print(f"WARNING: {warning}", file=sys.stderr)
        for line in lines:
            print(line)
    except WrongUse as error:
        return _complain("ERROR", str(error), WRONG)
    except CannotAsk as error:
        return _complain("ERROR" if error.code == WRONG else "pip-cache-proxy", error.line, error.code)
    return 0


def _complain(who: str, line: str, code: int) -> int:
    print(f"{who}: {line}", file=sys.stderr)
    return code


Said = tuple[list[str], str | None]
"""Lines for standard output, and a warning."""


def _done(question: Question) -> Said:
    """Ask whoever is to be asked: a server by its URL, the one that holds the directory, or nobody."""
    url = question.url
    if url is None and question.cache_dir is None:
        url = os.environ.get(URL) or None
    if url is not None:
        return _done_at(url, "--url" if question.url is not None else URL, question)
    settings = _settings(question)
    if question.verb == "dir":
        # As the server says it: bytes that are no UTF-8 become U+FFFD.
        return _document({"dir": os.fsencode(settings.cache.dir).decode("utf-8", "replace")}, question), None
    return _done_in(settings, question)


def _done_at(url: str, given: str, question: Question) -> Said:
    try:
        server = server_at(url)
    except ValueError as error:
        raise CannotAsk(f"{given}: {error}", EX_CONFIG) from None
    from proxy.directory import holder

    token = _given_token(question)
    if token is None:
        directory = (settings := _settings(question)).cache.dir
        # The token in the directory is that of a server here, and for nobody else's eyes. Where none runs anybody may
        # listen at its port.
        token = _token(settings, question, directory if server.near and holder(directory) is not None else None)
    if token is None:
        raise CannotAsk(f"{server.name} wants a token; name a file that holds it with --token-file", EX_NOPERM)
    with closing(Remote(server, token)) as remote:
        return _said(remote, question)


def _done_in(settings: Settings, question: Question) -> Said:
    """Whether a server runs may change at any moment: then the other way is tried."""
    from proxy.directory import holder

    directory = settings.cache.dir
    _refuse_foreign(directory)
    until = time.monotonic() + PATIENCE
    while True:
        process = holder(directory)
        said = _unserved(settings, question) if process is None else _served(settings, question, process)
        if said is not None:
            return said
        if time.monotonic() > until:
            break
        time.sleep(0.05)
    owner = "another process" if process in (None, "unknown") else f"process {process}"
    why = "which does not answer: it starts, stops, or is no server"
    raise CannotAsk(f"cache.dir: {directory} is in use by {owner}, {why}; try again, or give --url", EX_TEMPFAIL)


def _unserved(settings: Settings, question: Question) -> Said | None:
    """Done on the directory; None when somebody takes it at this moment."""
    from proxy.errors import OwnedElsewhere
    from proxy.unserved import Unserved

    try:
        return _said(Unserved(settings.cache), question)
    except OwnedElsewhere:
        return None


def _served(settings: Settings, question: Question, process: str) -> Said | None:
    """Asked of the process that holds the directory; None when it does not listen (yet, or any more)."""
    from proxy.address import find

    directory = settings.cache.dir
    address = find(directory)
    # Of a server that was killed it says where, perhaps, somebody else listens now.
    if address is None or str(address.pid) != process:
        return None
    token = _given_token(question) or _token(settings, question, directory)
    if token is None:
        advice = "name the file with the server's with --token-file"
        raise CannotAsk(f"{directory} holds no token that can be used; {advice}", EX_NOPERM)
    try:
        with closing(Remote(server_of(address), token)) as remote:
            return _said(remote, question)
    except NobodyThere:
        return None


def _refuse_foreign(directory: Path) -> None:
    """What lies in another user's directory is theirs to say: also where the token would be sent to."""
    try:
        foreign = directory.stat().st_uid != os.geteuid()
    except FileNotFoundError:
        return
    except OSError as error:
        raise CannotAsk(f"cache.dir: {directory} cannot be read: {error.strerror}", EX_CANTCREAT) from None
    if foreign:
        advice = "run this as that user, or ask its server with --url and --token-file"
        raise CannotAsk(f"cache.dir: {directory} belongs to another user; {advice}", EX_CANTCREAT)


def _settings(question: Question) -> Settings:
    from proxy.config import SettingError, load

    try:
        return load(question.config, {} if question.cache_dir is None else {"cache": {"dir": question.cache_dir}})
    except SettingError as error:
        raise CannotAsk(str(error), EX_CONFIG) from None


def _given_token(question: Question) -> str | None:
    """The token in the file that was named."""
    path = question.token_file
    if path is None:
        return None
    from proxy.credentials import LARGEST, usable_token

    try:
        # It may be a pipe: then whoever writes to it is waited for.
        with open(path, "rb") as file:
            found = os.fstat(file.fileno())
            if stat.S_ISREG(found.st_mode) and found.st_mode & 0o027:
                mode = f"{stat.S_IMODE(found.st_mode):04o}"
                raise ValueError(f"others may read it, or write to it (mode {mode}): chmod 600 it")
            content = file.read(LARGEST + 1)
        return usable_token(content.decode("latin-1"))
    except OSError as error:
        raise CannotAsk(f"--token-file: {path} cannot be read: {error.strerror}", EX_CONFIG) from None
    except ValueError as error:
        raise CannotAsk(f"--token-file: {path}: {error}", EX_CONFIG) from None


def _token(settings: Settings, question: Question, directory: Path | None) -> str | None:
    """The token of the settings, else the one the server left in its directory; None when there is none."""
    from proxy import admintoken
    from proxy.errors import ProxyError

    admin = settings.admin
    secret = admin.writes() or (None if question.verb in CHANGES else admin.reads())
    try:
        if secret is not None:
            return secret.reveal()
        return None if directory is None else admintoken.read(directory)
    except (OSError, ProxyError, admintoken.Unfit):
        return None


def _said(cache: Cache, question: Question) -> Said:
    """What the answer is, in words."""
    try:
        match question.verb:
            case "dir" | "info":
                return _document(cache.ask(question.verb, {}), question), None
            case "list":
                return _listed(cache, question), None
            case _:
                return _removed(cache, question)
    except (LookupError, TypeError, AttributeError):
        raise CannotAsk("the answer cannot be understood; is the server's version the same as this one's?") from None


def _document(answer: Document, question: Question) -> list[str]:
    if question.format == "json":
        return [json.dumps(answer, indent=2)]
    return pipwords.info(answer) if question.verb == "info" else [pipwords.shown(answer["dir"])]


def _listed(cache: Cache, question: Question) -> list[str]:
    values: dict[str, Any] = dict(question.filters)
    if question.pattern is not None:
        values["pattern"] = question.pattern

    def rows(shorten: Callable[[Document], str]) -> list[str]:
        # The API wants a pattern of at least one character. pip's takes none, which no name matches.
        return [] if question.pattern == "" else cache.listed(values, shorten)

    match question.format:
        case "json":
            # As one answer has it: it came in parts.
            return ['{"files": [', ",\n".join(rows(json.dumps)), '], "cursor": null}']
        case "abspath":
            directory = cache.ask("dir", {})["dir"]
            return sorted(filter(None, rows(lambda file: pipwords.location(directory, file))))
        case _:
            return pipwords.listing(rows(pipwords.item), question.filters.get("kind", ()))


def _removed(cache: Cache, question: Question) -> Said:
    values: dict[str, Any] = {"dry_run": question.dry_run}
    if question.verb == "remove":
        values |= {**question.filters, "pattern": question.pattern}
    if question.pattern == "":
        answer: Document = {"removed": [], "count": 0, "bytes": 0, "directories": 0, "dry_run": question.dry_run}
    else:
        answer = cache.ask(question.verb, values)
    if question.format == "json":
        return [json.dumps(answer, indent=2)], None
    directory = cache.ask("dir", {})["dir"] if question.verbose and answer["removed"] else None
    return pipwords.removal(answer, directory), None if answer["count"] else pipwords.no_match(question.pattern)
