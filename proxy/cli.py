"""The command ``pip-cache-proxy``: flags in, an exit code out, one line on standard error per mistake.

Exit codes, with their sysexits.h names where they have one: 0 done (for serve: after SIGTERM), 1 and 2 wrong usage, 65
DATAERR what was cached was damaged (and is removed), 69 UNAVAILABLE no server answers, 71 OSERR the address cannot be
taken, 73 CANTCREAT the cache directory cannot be used, 75 TEMPFAIL another process holds it, 77 NOPERM a token is
refused, 78 CONFIG a bad setting, 130 interrupted, 141 nobody reads what is said any more. Everything heavy is imported
by the command that needs it: ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxy import __version__
from proxy.errors import OwnedElsewhere, StoreFailed

if TYPE_CHECKING:
    from proxy.config import Settings
    from proxy.listening import CannotListen
    from proxy.sections import Index

EX_OSERR, EX_CANTCREAT, EX_TEMPFAIL, EX_CONFIG, INTERRUPTED, PIPE_CLOSED = 71, 73, 75, 78, 130, 141
"""The last two as a shell has them: 128 and the number of the signal."""

ABOUT = """\
A caching proxy between Python installers and PyPI.

  pip-cache-proxy serve
  PIP_INDEX_URL=http://127.0.0.1:3143/simple pip install requests
  UV_DEFAULT_INDEX=http://127.0.0.1:3143/simple uv pip install requests
  pip-cache-proxy cache list
"""

SERVE = """\
Serve PyPI, or the indexes of a configuration file, from a cache on this machine's disk.

  pip-cache-proxy serve
  pip-cache-proxy serve --host 0.0.0.0              share it on the local network
  pip-cache-proxy serve --config config.toml        your own indexes and limits
  pip-cache-proxy serve --offline                   only what is cached, no upstream
"""

CHECK = """\
Read the settings, say what would be served, and change nothing. Exits with 78 where a setting is wrong.

  pip-cache-proxy check --config /etc/pip-cache-proxy/config.toml
  pip-cache-proxy check --deep          verify all that is cached, too, and remove what is damaged (exits with 65)
"""

SETTINGS = """\
Every setting can come from a flag, from the environment (PIPCACHEPROXY_SERVER__PORT=8080) or from the file
([server] port = 8080), in this order of precedence. config.example.toml explains them all.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; wrong usage exits with 2, as argparse does."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        try:
            return _done(words)
        finally:
            # Here, where it can still be told of, and not when the interpreter ends.
            print(end="", flush=True)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read has enough. What is left in the buffer must go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED


def _done(words: Sequence[str]) -> int:
    if words[:1] == ["cache"]:
        return cache(words[1:])
    arguments = _parser().parse_args(words)
    code: int = arguments.run(arguments)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pip-cache-proxy", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"pip-cache-proxy {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, run, summary, about in (
        ("serve", serve, "run the proxy until SIGTERM or Ctrl-C", SERVE),
        ("check", check, "read the settings and say what would be served", CHECK),
    ):
        command = commands.add_parser(
            name,
            help=summary,
            description=about,
            epilog=SETTINGS,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.add_argument("--config", metavar="FILE", type=Path, help="settings in TOML")
        command.set_defaults(run=run)
        if name == "serve":
            _add_flags(command)
        else:
            command.add_argument("--deep", action="store_true", help="read and verify all that is cached")
    # A line of help: what follows it is read as pip reads it, and parse_args never sees that.
    teller = commands.add_parser("cache", help="see and clear what is cached, with the verbs of pip cache")
    teller.set_defaults(run=lambda _: cache([]))
    return parser


def _add_flags(command: argparse.ArgumentParser) -> None:
    # Values stay text: the settings check them, and a bad one is one line that names its key, as anywhere else.
    command.add_argument(
        "--host", action="append", help="address to listen on (127.0.0.1; 0.0.0.0 is all of them); may be repeated"
    )
    command.add_argument("--port", help="port to listen on (3143; 0 takes a free one)")
    command.add_argument("--cache-dir", metavar="DIR", help="where to keep the cache (the user's own)")
    command.add_argument(
        "--offline", action="store_true", default=None, help="serve only what is cached, ask no upstream"
    )


def flags(arguments: argparse.Namespace) -> Mapping[str, Mapping[str, Any]]:
    """The flags that were given, nested like the file of settings."""
    wanted = {
        "server": {"host": arguments.host, "port": arguments.port},
        "cache": {"dir": arguments.cache_dir},
        "freshness": {"offline": arguments.offline},
    }
    given = {
        section: {key: value for key, value in keys.items() if value is not None} for section, keys in wanted.items()
    }
    return {section: keys for section, keys in given.items() if keys}


def cache(words: Sequence[str]) -> int:
    """``pip cache`` for this cache; see ``cachecommand``."""
    from proxy import cachecommand

    return cachecommand.main(words)


def serve(arguments: argparse.Namespace) -> int:
    """Serve until the end. What keeps the proxy from starting is one line that says what to do about it."""
    from proxy.config import SettingError, load

    try:
        settings = load(arguments.config, flags(arguments))
    except SettingError as error:
        return _complain(str(error), EX_CONFIG)
    from proxy.app import run
    from proxy.listening import CannotListen

    try:
        return run(settings)
    except OwnedElsewhere as error:
        owner = "another process" if error.pid is None else f"process {error.pid}"
        advice = "stop it, or choose another directory with --cache-dir"
        return _complain(f"cache.dir: {settings.cache.dir} is in use by {owner}; {advice}", EX_TEMPFAIL)
    except StoreFailed as error:
        return _complain(f"cache.dir: {settings.cache.dir}: {error.because}", EX_CANTCREAT)
    except CannotListen as error:
        return _complain(f"{error.key}: {_unbound(error)}", EX_OSERR)
    except OSError as error:
        return _complain(str(error), EX_OSERR)


def _unbound(error: CannotListen) -> str:
    """Why the address could not be taken, and what to do about it."""
    match error.errno:
        case errno.EADDRINUSE if error.key == "server.port":
            return f"{error.address} is in use; stop what listens there, or choose another with --port"
        case errno.EADDRINUSE:
            return f"{error.address} is in use; stop what listens there, or choose another path"
        case errno.EACCES | errno.EPERM if error.key == "server.port":
            return f"no permission to listen on {error.address}; choose a port above 1023 with --port"
        case _:
            return f"cannot listen on {error.address}: {error.strerror}"


def check(arguments: argparse.Namespace) -> int:
    """Say what ``serve`` would do with these settings, without doing any of it."""
    from proxy.config import SettingError, load

    try:
        settings = load(arguments.config)
        lines = describe(settings)
    except SettingError as error:
        return _complain(str(error), EX_CONFIG)
    print("\n".join(lines))
    if not arguments.deep:
        return 0
    from proxy import deepcheck

    try:
        return deepcheck.run(settings.cache)
    except OwnedElsewhere as error:
        owner = "another process" if error.pid is None else f"process {error.pid}"
        asked = deepcheck.ask_owner(settings.cache)
        return _complain(f"cache.dir: {settings.cache.dir} is in use by {owner}, {asked}", EX_TEMPFAIL)
    except StoreFailed as error:
        return _complain(f"cache.dir: {settings.cache.dir}: {error.because}", EX_CANTCREAT)
    except OSError as error:
        return _complain(f"cache.dir: {settings.cache.dir}: {error.strerror}", EX_CANTCREAT)


def describe(settings: Settings) -> list[str]:
    """What would be served, line by line. Raises SettingError for a cache directory that cannot be used."""
    from proxy.spelling import show_duration, show_size

    server, cache, freshness, limits = settings.server, settings.cache, settings.freshness, settings.limits
    scheme = "http" if server.tls_cert is None else "https"
    hosts = [f"[{host}]" if ":" in host else host for host in server.host]
    lines = [f"address    {scheme}://{host}:{server.port}/simple" for host in hosts]
    if server.unix_socket is not None:
        lines.append(f"address    {server.unix_socket} (http)")
    if server.tls_cert is not None:
        lines.append(f"tls        certificate {server.tls_cert}, key {server.tls_key}")
    if server.public_url is not None:
        lines.append(f"public     {server.public_url}/simple")
    if server.trusted_proxies:
        lines.append(f"trusts     X-Forwarded-* from {', '.join(map(str, server.trusted_proxies))}")
    for index in settings.index:
        by_name = "" if index is settings.index[0] else f" at /index/{index.name}/simple"
        through = f" through {index.proxy}" if index.proxy else ""
        private = ", private networks allowed" if index.private else ""
        more = f"{through}{private}{_credentials(index)}{_missing(index)}"
        lines.append(f"index      {index.name}{by_name}: {index.url}{more}")
    for mount in settings.mount:
        life = f"fresh for {show_duration(mount.default_ttl)} where it does not say"
        passed = ", credentials are passed on" if mount.pass_credentials else ""
        lines.append(f"mount      {mount.name} at /raw/{mount.name}/: {mount.url}, {life}{passed}")
    if freshness.offline:
        lines.append("offline    only what is cached is served")
    lines += [
        f"cache      {cache.dir} ({_state(cache.dir)})",
        f"keeps      {show_size(cache.max_size)} of files, {show_size(cache.responses_max_size)} of pages, "
        f"{show_size(cache.mounts_max_size)} of mounts; "
        f"leaves {show_size(cache.min_free)} of the disk free, holds {show_size(cache.ballast)} back for a full one",
        f"pages      fresh for {show_duration(freshness.default_ttl)} where upstream does not say, "
        f"at most {show_duration(freshness.max_ttl)}; "
        f"stale ones serve up to {show_duration(freshness.stale_if_error)} while upstream fails",
        f"patience   a host rests after {limits.breaker_failures} failures in {show_duration(limits.breaker_window)}, "
        f"is asked again every {show_duration(limits.probe_interval)}, and rests at most "
        f"{show_duration(limits.rest_max)} where it asks for it",
        f"limits     {limits.client_connections} client connections, "
        f"{limits.client_connections_per_address} of one address, {limits.waiters} waiting for one answer, "
        f"{limits.upstream_connections} connections to upstreams; pages up to {show_size(limits.page_max)}",
    ]
    return lines


def _credentials(index: Index) -> str:
    """How we say who we are to this index, and where the secret comes from: never what it is."""
    how = index.credentials().described()
    if index.password is not None or index.token is not None:
        return f", credentials: {how}, from the environment"
    file = index.password_file or index.token_file
    return f", credentials: {how}" + (f", from {file}" if file is not None else "")


def _missing(index: Index) -> str:
    more = [status for status in index.missing_status if status not in (404, 410)]
    return f", {' and '.join(map(str, more))} means missing" if more else ""


def _state(directory: Path) -> str:
    """Whether the cache can live there. Raises SettingError when it cannot."""
    from proxy.config import SettingError
    from proxy.directory import holder

    if directory.is_dir():
        if directory.stat().st_uid != os.geteuid():
            raise SettingError("cache.dir", f"{directory} belongs to another user")
        if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
            raise SettingError("cache.dir", f"{directory} cannot be written to")
        return "there, writable" if (owner := holder(directory)) is None else f"in use by process {owner}"
    nearest = next(parent for parent in (directory, *directory.parents) if os.path.lexists(parent))
    if not nearest.is_dir():
        raise SettingError("cache.dir", f"{nearest} is not a directory")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise SettingError("cache.dir", f"{directory} cannot be made in {nearest}")
    return "will be made"


def _complain(line: str, code: int) -> int:
    print(f"pip-cache-proxy: {line}", file=sys.stderr)
    return code
