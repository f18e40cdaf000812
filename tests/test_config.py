"""Settings: their defaults, their precedence, and one line for every mistake."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from pypi_simple import PYPI_SIMPLE_ENDPOINT

from proxy import spelling
from proxy.config import SECTIONS, SettingError, Settings, _pypi_endpoint, load
from proxy.core.messages import Rules
from proxy.rules import mount_rules
from proxy.sections import FROM_ENVIRONMENT, Index, Mount

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "config.example.toml"
INDEX = '[[index]]\nname = "a"\nurl = "https://example.com/simple/"\n'
MOUNT = '[[mount]]\nname = "m"\nurl = "https://example.com/tree/"\n'
ENVIRONMENT_INDEX = '[{"name": "a", "url": "https://example.com/simple"}]'


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the settings of whoever runs it."""
    for name in list(os.environ):
        if name.upper().startswith("PIPCACHEPROXY_"):
            monkeypatch.delenv(name)


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a file of settings and says where."""

    def write(text: str) -> Path:
        path = tmp_path / "config.toml"
        secret = tmp_path / "secret"
        secret.write_text("hidden\n")
        path.write_text(text.replace("@SECRET_FILE@", str(secret)))
        return path

    return write


def mistake(config: Path | None = None, flags: Mapping[str, Any] | None = None) -> SettingError:
    """The mistake found in these settings."""
    with pytest.raises(SettingError) as caught:
        load(config, flags)
    return caught.value


# --- the example is the documentation


def test_example_loads_and_equals_the_defaults() -> None:
    """Whoever copies the example changes nothing."""
    assert load(EXAMPLE) == load() == Settings()


def keys() -> list[tuple[str, str]]:
    """Every key of every section that may stand in a file."""
    every = [(section, key) for section, model in SECTIONS.items() for key in model.model_fields]
    return [(section, key) for section, key in every if section != "index" or key not in FROM_ENVIRONMENT]


@pytest.mark.parametrize(("section", "key"), keys())
def test_example_comments_every_key(section: str, key: str) -> None:
    """Each key stands in its section, as a setting or commented out, under a comment of its own."""
    text = EXAMPLE.read_text()
    heading = rf"^(?:\[{section}\]|# \[\[{section}\]\])$"
    found = re.search(rf"{heading}\n(.*?)(?=^(?:# \[)?\[|\Z)", text, re.DOTALL | re.MULTILINE)
    assert found is not None
    assert re.search(rf"^# .*[.:)]\n(?:# )?{key} = .+$", found[1], re.MULTILINE)


def test_example_has_no_other_keys() -> None:
    """What stands in the example, commented out or not, exists."""
    for line in EXAMPLE.read_text().splitlines():
        if found := re.fullmatch(r"(?:# )?([a-z_]+) = .*", line):
            assert found[1] in {key for _, key in keys()}


def test_example_index_works_when_its_marks_are_removed(written: Callable[[str], Path], tmp_path: Path) -> None:
    """The block for an index is right, too."""
    authority, password, token = (tmp_path / name for name in ("example.pem", "password", "token"))
    trustme.CA().cert_pem.write_to_path(str(authority))
    password.write_text("x")
    token.write_text("x")
    block = EXAMPLE.read_text().split("# [[index]]\n")[1].split("\n\n\n")[0]
    lines = [line.removeprefix("#").removeprefix(" ") for line in block.splitlines()]
    table = "\n".join(["[[index]]", *(line for line in lines if " = " in line and not line.startswith("#"))])
    for name, path in (("ssl/example.pem", authority), ("pip-cache-proxy/internal.password", password)):
        table = table.replace(f"/etc/{name}", str(path))
    assert set(tomllib.loads(table)["index"][0]) == set(Index.model_fields) - FROM_ENVIRONMENT
    # A name with a password, or a token: the block shows both, and says so.
    basic, bearer = table.rpartition("\n")[0], f"{INDEX}{table.rpartition(chr(10))[2]}"
    (index,) = load(written(basic)).index
    assert index == Index(
        name="internal",
        url="https://example.com/simple/",
        proxy="http://127.0.0.1:3128",
        ca_file=str(authority),
        username="reader",
        password_file=password,
    )
    (index,) = load(written(bearer.replace("/etc/pip-cache-proxy/internal.token", str(token)))).index
    assert index.token_file == token


def test_example_mount_works_when_its_marks_are_removed(written: Callable[[str], Path]) -> None:
    """Its block is right, names every key, and what it shows is what counts without it."""
    block = EXAMPLE.read_text().split("# [[mount]]\n")[1].split("\n\n\n")[0]
    lines = [line.removeprefix("#").removeprefix(" ") for line in block.splitlines()]
    table = "\n".join(["[[mount]]", *(line for line in lines if " = " in line and not line.startswith("#"))])
    assert set(tomllib.loads(table)["mount"][0]) == set(Mount.model_fields)
    settings = load(written(table))
    (mount,) = settings.mount
    bare = Mount(name=mount.name, url=mount.url)
    assert (mount.name, mount.url) == ("builds", "https://example.com/builds/")
    assert mount_rules(settings, mount) == mount_rules(settings, bare)
    assert (mount.private, mount.pass_credentials) == (bare.private, bare.pass_credentials) == (False, False)


# --- mounts


def test_without_a_mount_there_is_none() -> None:
    """Nothing but indexes is served unless somebody says so."""
    assert load().mount == ()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://example.com", "https://example.com/"),
        ("HTTP://Example.COM:8080/Builds", "http://example.com:8080/Builds/"),
        ("http://[::1]:3141/a//", "http://[::1]:3141/a//"),
        ("http://127.0.0.1/a%20b/%7E;x/", "http://127.0.0.1/a%20b/%7E;x/"),
    ],
)
def test_mount_urls(url: str, expected: str) -> None:
    """They end in a slash, and their paths stay as they are spelled: what is asked for is put behind them."""
    assert spelling.parse_mount_url(url) == expected


RULES = Rules(
    default_ttl=0.0,
    max_ttl=2.0**31,
    heuristic_fraction=0.1,
    heuristic_cap=86_400.0,
    negative_ttl=60.0,
    stale_if_error=604_800.0,
    stale_while_revalidate=0.0,
    stale_after=1.0,
    reload="limited",
    min_reload_interval=10.0,
    transparent=True,
)


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("", {}),
        # What is said for pages alone stays with them; the rest is inherited...
        ('[freshness]\ndefault_ttl = "1m"\nmax_ttl = "2m"', {}),
        ('[freshness]\nstale_if_error = "1m"', {"stale_if_error": 60.0}),
        ('[freshness]\nstale_while_revalidate = "1m"', {"stale_while_revalidate": 60.0}),
        ('[freshness]\nreload = "honour"', {"reload": "honour"}),
        ('[freshness]\nmin_reload_interval = "1m"', {"min_reload_interval": 60.0}),
        ("[freshness]\noffline = true", {"offline": True}),
        ('[freshness]\nstale_after = "2s"\nnegative_ttl = "2m"', {}),
        # ... unless the mount has its own, which may be nothing.
        ('default_ttl = "1m"', {"default_ttl": 60.0}),
        ("stale_if_error = 0", {"stale_if_error": 0.0}),
        ('stale_while_revalidate = "1m"\n[freshness]\nstale_while_revalidate = 1', {"stale_while_revalidate": 60.0}),
        ('reload = "ignore"', {"reload": "ignore"}),
        ("min_reload_interval = 0", {"min_reload_interval": 0.0}),
    ],
)
def test_rules_of_a_mount(written: Callable[[str], Path], text: str, changed: Mapping[str, Any]) -> None:
    """RFC 9111 as it stands, with the freshness of its own or that of pages."""
    settings = load(written(f"{MOUNT}{text}"))
    assert mount_rules(settings, settings.mount[0]) == replace(RULES, **changed)


# --- defaults


def test_defaults_are_these() -> None:
    """The numbers that the README and the tests of other rooms rely on."""
    settings = load()
    assert (settings.server.host, settings.server.port) == (("127.0.0.1",), 3143)
    assert settings.cache.dir.name == "pip-cache-proxy"
    assert settings.cache.dir.is_absolute()
    assert settings.cache.max_size == 20_000_000_000
    assert settings.freshness.stale_if_error == 7 * 86_400
    assert settings.limits.range_fill_max == 64 * 1024 * 1024
    assert settings.limits.connect_timeout == 3.5


def test_without_an_index_pypi_is_served() -> None:
    """The default index comes from pypi_simple: no registry is named here."""
    (index,) = load().index
    assert (index.name, index.url) == ("pypi", PYPI_SIMPLE_ENDPOINT)


def test_pypi_simple_is_read_and_not_imported() -> None:
    """Its address is the one an import would give; the HTTP client and HTML parsers it brings are not loaded."""
    assert _pypi_endpoint() == PYPI_SIMPLE_ENDPOINT
    code = "import sys, proxy.config; proxy.config.load(); print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    loaded = {name.partition(".")[0] for name in said.split()}
    assert "pydantic" in loaded
    assert not loaded & {"pypi_simple", "bs4", "requests"}


def source(text: str, place: Path) -> None:
    """A package pypi_simple of our own, to be found before the installed one."""
    (place / "pypi_simple").mkdir()
    (place / "pypi_simple" / "__init__.py").write_text(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('PYPI_SIMPLE_ENDPOINT = "https://example.com/a/"', ["https://example.com/a/", "False"]),
        ('PYPI_SIMPLE_ENDPOINT: str = "https://example.com/b/"', ["https://example.com/b/", "False"]),
        ('PYPI_SIMPLE_ENDPOINT: t.Final = "https://example.com/c/"', ["https://example.com/c/", "False"]),
        ('PYPI_SIMPLE_ENDPOINT = "https://example.com/" + "d/"', ["https://example.com/d/", "True"]),
        ("PYPI_SIMPLE_ENDPOINT = 'https://example.com/e/'", ["https://example.com/e/", "True"]),
        ("from pypi_simple.more import PYPI_SIMPLE_ENDPOINT", ["https://example.com/f/", "True"]),
    ],
)
def test_other_spellings_of_the_constant(tmp_path: Path, text: str, found: list[str]) -> None:
    """A release of pypi_simple that writes it otherwise is imported after all: slower, and as right."""
    source(f'"""PYPI_SIMPLE_ENDPOINT = "https://example.com/no/" """\n{text}\n', tmp_path)
    (tmp_path / "pypi_simple" / "more.py").write_text('PYPI_SIMPLE_ENDPOINT = "https://example.com/f/"\n')
    code = "import sys, proxy.config as c; print(c._pypi_endpoint(), 'pypi_simple' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    ).stdout
    assert said.split() == found


def test_a_configured_index_replaces_the_default(written: Callable[[str], Path]) -> None:
    """Indexes are exactly those that are written down, and pypi_simple is not even imported."""
    config = written(INDEX)
    code = (
        "import sys, pathlib, proxy.config as config;"
        "print(config.load(pathlib.Path(sys.argv[1])).index[0].url, 'pypi_simple' in sys.modules)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, str(config)], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    assert said.split() == ["https://example.com/simple/", "False"]


def test_settings_are_frozen_all_the_way_down() -> None:
    """Nobody changes a setting once it has been read."""
    settings = load()
    sections: list[tuple[BaseModel, str]] = [(settings, "server"), (settings.server, "port")]
    for model, key in [*sections, (settings.index[0], "url")]:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(model, key, getattr(model, key))
    assert isinstance(settings.index, tuple)
    assert isinstance(settings.server.allowed_hosts, tuple)


# --- precedence


def test_flags_beat_environment_beats_file_beats_defaults(
    written: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Key by key: a section may come from all four places."""
    config = written('[server]\nhost = "::1"\nport = 1\ndrain = "1s"\n')
    monkeypatch.setenv("PIPCACHEPROXY_SERVER__PORT", "2")
    monkeypatch.setenv("PIPCACHEPROXY_SERVER__DRAIN", "2s")
    server = load(config, {"server": {"port": "3"}}).server
    assert (server.port, server.drain, server.host, server.allowed_hosts) == (3, 2.0, ("::1",), ())


@pytest.mark.parametrize(
    ("name", "value", "section", "key", "expected"),
    [
        ("PIPCACHEPROXY_SERVER__ALLOWED_HOSTS", "Example.com, b:1", "server", "allowed_hosts", ("example.com", "b:1")),
        ("PIPCACHEPROXY_SERVER__ALLOWED_HOSTS", '["a", "b"]', "server", "allowed_hosts", ("a", "b")),
        ("PIPCACHEPROXY_SERVER__HOST", "127.0.0.1, ::1", "server", "host", ("127.0.0.1", "::1")),
        ("PIPCACHEPROXY_SERVER__HOST", '["::"]', "server", "host", ("::",)),
        ("PIPCACHEPROXY_SERVER__TRUSTED_PROXIES", "unix", "server", "trusted_proxies", ("unix",)),
        ("PIPCACHEPROXY_SERVER__PUBLIC_URL", "http://A.example.com/b/", "server", "public_url", "http://a.example.com/b"),
        ("PIPCACHEPROXY_CACHE__MAX_SIZE", "1MiB", "cache", "max_size", 1_048_576),
        ("PIPCACHEPROXY_FRESHNESS__OFFLINE", "true", "freshness", "offline", True),
        ("PIPCACHEPROXY_LIMITS__WAITERS", "7", "limits", "waiters", 7),
        ("PIPCACHEPROXY_LOG__FORMAT", "json", "log", "format", "json"),
        ("pipcacheproxy_server__port", "8080", "server", "port", 8080),
    ],
)
def test_environment_sets_any_key(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, section: str, key: str, expected: object
) -> None:
    """Text becomes what the key needs."""
    monkeypatch.setenv(name, value)
    assert getattr(getattr(load(), section), key) == expected


def test_environment_replaces_the_list_of_indexes(
    written: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PIPCACHEPROXY_INDEX is a whole list in JSON; lists are never joined."""
    monkeypatch.setenv("PIPCACHEPROXY_INDEX", '[{"name": "b", "url": "http://127.0.0.1:1/b"}]')
    assert [(index.name, index.url) for index in load(written(INDEX)).index] == [("b", "http://127.0.0.1:1/b/")]


def test_the_environment_may_list_mounts(written: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """PIPCACHEPROXY_MOUNT is a whole list in JSON, too, and replaces that of the file."""
    monkeypatch.setenv("PIPCACHEPROXY_MOUNT", '[{"name": "n", "url": "http://127.0.0.1:1/b", "default_ttl": "1m"}]')
    settings = load(written(INDEX + MOUNT))
    assert settings.mount == (Mount(name="n", url="http://127.0.0.1:1/b/", default_ttl=60.0),)
    assert [index.name for index in settings.index] == ["a"]


def test_defaults_do_not_look_at_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only load does: Settings() is the same everywhere."""
    monkeypatch.setenv("PIPCACHEPROXY_SERVER__PORT", "1")
    assert Settings().server.port == 3143


# --- mistakes: exactly one line, which names the key and where it was set


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        ("[server]\nport = 65536", "server.port", "expected a port from 0 to 65535"),
        ("[server]\nport = -1", "server.port", "expected a port"),
        ("[server]\nport = true", "server.port", "expected a port"),
        ('[server]\nport = "http"', "server.port", "expected a port"),
        ("[server]\nport = 80.5", "server.port", "expected a port"),
        ("[server]\nprot = 1", "server.prot", "unknown key; did you mean port?"),
        ("[server]\ntls = 1", "server.tls", "unknown key"),
        ("[sever]\nport = 1", "sever", "unknown key; did you mean server?"),
        ("server = 1", "server", "expected a table"),
        ("[server]\nhost = 1", "server.host", "expected text in quotes"),
        ('[server]\nhost = ""', "server.host", "expected a host name or an address"),
        ('[server]\nhost = "http://example.com"', "server.host", "expected a host name or an address"),
        ("[server]\nhost = [1]", "server.host", "expected text in quotes"),
        ('[server]\nhost = ["127.0.0.1", "a/b"]', "server.host", "expected a host name or an address"),
        ("[server]\nhost = []", "server.host", "expected an address, or a unix_socket"),
        ('[server]\nunix_socket = ""', "server.unix_socket", "expected the path of a socket"),
        (f'[server]\nunix_socket = "/{"x" * 103}"', "server.unix_socket", "expected the path of a socket"),
        ('[server]\nunix_socket = "/nowhere/a"', "server.unix_socket", "expected a path in a directory that is there"),
        ('[server]\ntls_cert = ""', "server.tls_cert", "expected a file in PEM"),
        ('[server]\ntls_cert = "/nowhere/a"\ntls_key = "/nowhere/b"', "server.tls_cert", "cannot be read"),
        (
            f'[server]\ntls_cert = "{EXAMPLE}"\ntls_key = "{EXAMPLE}"',
            "server.tls_key",
            "expected a certificate and its key in PEM",
        ),
        ('[server]\npublic_url = "example.com"', "server.public_url", "expected the URL of this proxy"),
        ('[server]\npublic_url = "https://example.com/?a"', "server.public_url", "expected the URL of this proxy"),
        ('[server]\ntrusted_proxies = ["localhost"]', "server.trusted_proxies[0]", "expected addresses and networks"),
        ('[server]\ntrusted_proxies = ["::1", "10.0.0.1/8"]', "server.trusted_proxies[1]", "expected addresses and"),
        ("[server]\ntrusted_proxies = [1]", "server.trusted_proxies[0]", "expected addresses and networks"),
        ("[server]\nallowed_hosts = 1", "server.allowed_hosts", "expected a list"),
        ('[server]\nallowed_hosts = ["a", "b/c"]', "server.allowed_hosts[1]", "expected hosts as clients send them"),
        ('[server]\ndrain = "soon"', "server.drain", "expected a duration"),
        ('[server]\n"po\\nrt" = 1', "server.po?rt", "unknown key"),
        ("[cache]\ndir = 1", "cache.dir", "expected text in quotes"),
        ('[cache]\ndir = ""', "cache.dir", "expected a directory"),
        ('[cache]\ndir = "a\\u0000b"', "cache.dir", "expected a directory"),
        ('[cache]\ndir = "~no-such-user/cache"', "cache.dir", "expected a path; this user has no home"),
        ('[cache]\nmax_size = "20 gigs"', "cache.max_size", "expected a size"),
        ("[cache]\nmax_size = 0", "cache.max_size", "expected more than 0"),
        ("[cache]\nmin_free = -1", "cache.min_free", "expected a size"),
        ('[freshness]\nreload = "never"', "freshness.reload", "expected 'limited', 'ignore' or 'honour'"),
        ('[freshness]\noffline = "perhaps"', "freshness.offline", "expected true or false"),
        ("[freshness]\noffline = []", "freshness.offline", "expected true or false"),
        ("[freshness]\nstale_after = 0", "freshness.stale_after", "expected more than 0"),
        ("[limits]\nwaiters = 0", "limits.waiters", "expected a whole number from 1"),
        ('[log]\nlevel = "loud"', "log.level", "expected 'info', 'warning' or 'error'"),
        ('[log]\nlevel = "debug"', "log.level", "expected 'info', 'warning' or 'error'"),
        ('[index]\nname = "a"', "index", "expected a list of tables ([[index]])"),
        ("index = [1]", "index[0]", "expected a table"),
        ('[[index]]\nname = "a"', "index[0].url", "is required"),
        (f'{INDEX}password = "x"', "index[0].password", "is not taken from here: name a file that holds it"),
        (f'{INDEX}token = "x"', "index[0].token", "is not taken from here: name a file that holds it"),
        (f"{INDEX}token = 1", "index[0].token", "is not taken from here: name a file that holds it"),
        (f'{INDEX}username = "x"', "index[0].username", "needs a password: set password_file"),
        (f'{INDEX}username = ""', "index[0].username", "expected a user name"),
        (f'{INDEX}username = "a:b"', "index[0].username", "expected a user name"),
        (f'{INDEX}password_file = "@SECRET_FILE@"', "index[0].username", "is required with a password"),
        (f'{INDEX}password_file = "/nowhere/p"', "index[0].password_file", "expected a readable file that holds"),
        (f'{INDEX}token_file = "{ROOT}"', "index[0].token_file", "expected a readable file that holds the secret"),
        (f'{INDEX}token_file = "a\\u0000b"', "index[0].token_file", "expected a readable file that holds the secret"),
        (
            f'{INDEX}username = "x"\ntoken_file = "@SECRET_FILE@"',
            "index[0].username",
            "expected either a username or a token",
        ),
        (f"{INDEX}missing_status = 403", "index[0].missing_status", "expected a list of statuses"),
        (f"{INDEX}missing_status = [500]", "index[0].missing_status", "expected statuses from 400 to 499"),
        (f"{INDEX}missing_status = [true]", "index[0].missing_status", "expected statuses from 400 to 499"),
        (f"{INDEX}missing_status = [429]", "index[0].missing_status", "expected none of 408, 425 and 429"),
        (f"{INDEX}missing_status = [403, 401]", "index[0].missing_status", "expected neither 401 nor 407"),
        (f"{INDEX}missing_status = [407]", "index[0].missing_status", "expected neither 401 nor 407"),
        (f"{INDEX}{INDEX}", "index", "expected a different name for every index"),
        (INDEX.replace('"a"', '"A"'), "index[0].name", "expected lower-case letters"),
        (INDEX.replace('"a"', '"-a"'), "index[0].name", "expected lower-case letters"),
        (INDEX.replace('"a"', '"a/b"'), "index[0].name", "expected lower-case letters"),
        (f'{INDEX}ca_file = "/nowhere/ca.pem"', "index[0].ca_file", "expected a readable file of certificates"),
        (f'{INDEX}ca_file = "{EXAMPLE}"', "index[0].ca_file", "expected a file of certificates in PEM"),
        (f'{INDEX}private = "maybe"', "index[0].private", "expected true or false"),
        ('[mount]\nname = "m"', "mount", "expected a list of tables ([[mount]])"),
        ("mount = [1]", "mount[0]", "expected a table"),
        ('[[mount]]\nname = "m"', "mount[0].url", "is required"),
        ('[[mount]]\nurl = "https://example.com/"', "mount[0].name", "is required"),
        (MOUNT.replace('"m"', '"M"'), "mount[0].name", "expected lower-case letters"),
        (MOUNT.replace('"m"', '"a/b"'), "mount[0].name", "expected lower-case letters"),
        (MOUNT.replace("https:", "ftp:"), "mount[0].url", "expected the URL of a directory"),
        (MOUNT.replace("tree/", "tree/?a"), "mount[0].url", "expected the URL of a directory"),
        (MOUNT.replace("example", "me:hunter2-canary@example"), "mount[0].url", "expected the URL of a directory"),
        (f"{MOUNT}{MOUNT}", "mount", '"m" is the name of another mount or an index, too: expected one of its own'),
        (INDEX + MOUNT.replace('"m"', '"a"'), "mount", '"a" is the name of another mount or an index, too'),
        (MOUNT.replace('"m"', '"pypi"'), "mount", '"pypi" is the name of another mount or an index, too'),
        (f'{MOUNT}private = "maybe"', "mount[0].private", "expected true or false"),
        (f"{MOUNT}default_ttl = -1", "mount[0].default_ttl", "expected a duration"),
        (f'{MOUNT}stale_if_error = "soon"', "mount[0].stale_if_error", "expected a duration"),
        (f'{MOUNT}stale_while_revalidate = ""', "mount[0].stale_while_revalidate", "expected a duration"),
        (f'{MOUNT}min_reload_interval = "1y"', "mount[0].min_reload_interval", "expected a duration"),
        (f'{MOUNT}reload = "never"', "mount[0].reload", "expected 'limited', 'ignore' or 'honour'"),
        (f"{MOUNT}pass_credentials = []", "mount[0].pass_credentials", "expected true or false"),
        (f'{MOUNT}pass_credential = "x"', "mount[0].pass_credential", "unknown key; did you mean pass_credentials?"),
        (f'{MOUNT}username = "x"', "mount[0].username", "unknown key"),
        (f'{MOUNT}max_ttl = "1d"', "mount[0].max_ttl", "unknown key"),
        ("mounts = []", "mounts", "unknown key; did you mean mount?"),
    ],
)
def test_a_mistake_in_the_file_names_its_key(written: Callable[[str], Path], text: str, key: str, message: str) -> None:
    """The dotted key, what was expected, and the file."""
    config = written(text)
    error = mistake(config)
    assert error.key == key
    assert error.message.startswith(message)
    assert error.message.endswith(f"(in {config})")
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("name", "value", "key"),
    [
        ("PIPCACHEPROXY_SERVER__PORT", "x", "server.port"),
        ("PIPCACHEPROXY_SERVER__PORT", "", "server.port"),
        ("PIPCACHEPROXY_SERVER__PROT", "1", "server.prot"),
        ("PIPCACHEPROXY_SERVER__PORT__X", "1", "server.port"),
        ("PIPCACHEPROXY_SERVER__ALLOWED_HOSTS", '["a"', "server.allowed_hosts"),
        ("PIPCACHEPROXY_INDEX", "[", "index"),
        ("PIPCACHEPROXY_INDEX", '{"name": "a"}', "index"),
        ("PIPCACHEPROXY_INDEX", "example.com", "index[0]"),
        ("PIPCACHEPROXY_INDEX", '[{"name": "a"}]', "index[0].url"),
        ("PIPCACHEPROXY_MOUNT", "[", "mount"),
        ("PIPCACHEPROXY_MOUNT", '[{"name": "a"}]', "mount[0].url"),
        ("PIPCACHEPROXY_MOUNT", '[{"name": "pypi", "url": "https://example.com/"}]', "mount"),
    ],
)
def test_a_mistake_in_the_environment_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, key: str
) -> None:
    """The key, and the variable that set it."""
    monkeypatch.setenv(name, value)
    error = mistake()
    assert error.key == key
    assert "(PIPCACHEPROXY_" in error.message
    assert name.startswith(error.message.rpartition("(")[2].rstrip(")"))


@pytest.mark.parametrize(
    "name",
    [
        "PIPCACHEPROXY_PORT",
        "PIPCACHEPROXY_",
        "PIPCACHEPROXY_SERVER",
        "PIPCACHEPROXY_SERVER__",
        "PIPCACHEPROXY_SERVER_PORT",
        "PIPCACHEPROXY_SEVER__PORT",
        "PIPCACHEPROXY_INDEX__0__URL",
        "PIPCACHEPROXY_MOUNT__0__URL",
        "PIPCACHEPROXY_MOUNT_M_TOKEN",
        "pipcacheproxy_port",
    ],
)
def test_an_unknown_variable_is_a_mistake(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A variable with our prefix that sets nothing is a slip; it names itself."""
    monkeypatch.setenv(name, "1")
    error = mistake()
    assert error.key == name
    assert error.message.startswith("unknown variable")


def test_a_mistake_in_a_flag_says_so() -> None:
    """Whatever file and environment say: the flag was used."""
    error = mistake(None, {"server": {"port": "99999"}})
    assert (error.key, error.message.endswith("(command line)")) == ("server.port", True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[server", "is not valid TOML"),
        (b"port =", "is not valid TOML"),
        (b"a = 1\na = 2", "is not valid TOML"),
        (b"a = '\xff'", "is not valid TOML"),
        (b"a = " + b"[" * 10_000, "is not valid TOML"),
        (b"a = " + b"9" * 10_000, "is not valid TOML"),
    ],
)
def test_broken_toml_names_the_file(tmp_path: Path, content: bytes, message: str) -> None:
    """One line, whatever the file holds."""
    config = tmp_path / "config.toml"
    config.write_bytes(content)
    error = mistake(config)
    assert (error.key, error.message.startswith(message)) == (str(config), True)
    assert "\n" not in str(error)


def test_a_file_that_cannot_be_read_names_itself(tmp_path: Path) -> None:
    """A missing file and a directory are not taken for an empty file."""
    assert mistake(tmp_path / "missing.toml").message == "cannot be read: No such file or directory"
    assert mistake(tmp_path).message == "cannot be read: Is a directory"


SECRET = "hunter2-canary"


@pytest.mark.parametrize(
    "text",
    [
        f'[[index]]\nname = "a"\nurl = "https://me:{SECRET}@example.com/simple/"',
        f'[[index]]\nname = "a"\nurl = "https://example.com/simple/?token={SECRET}"',
        f'[[index]]\nname = "a"\nurl = "https://example.com:{SECRET}/simple/"',
        f'[[index]]\nname = "a"\nurl = "https://[{SECRET}/simple/"',
        f'[[index]]\nname = "a"\nurl = "{SECRET}"',
        f'[[index]]\nname = "a"\nurl = ["{SECRET}"]',
        f'{INDEX}proxy = "http://me:{SECRET}@127.0.0.1:3128"',
        f'{INDEX}password = "{SECRET}"',
        f'{INDEX}token = "{SECRET}"',
        f'{INDEX}username = "{SECRET}"',
        f'{INDEX}username = "me:{SECRET}"',
        f'{INDEX}token_file = "/nowhere/{SECRET}"',
        f'{INDEX}missing_status = ["{SECRET}"]',
        f'[server]\ntls_key = "{SECRET}"',
        f'[server]\npublic_url = "https://me:{SECRET}@example.com"',
        f'[server]\ntrusted_proxies = ["{SECRET}"]',
        f'[server]\nhost = "me:{SECRET}@example.com"',
        f'[server]\nport = "{SECRET}"',
        f'[log]\nformat = "{SECRET}"',
        f'[cache]\nmax_size = "{SECRET}"',
        f'server = "{SECRET}"',
        f'[server]\nport = "{SECRET}',
    ],
)
def test_no_value_is_ever_repeated(written: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A password pasted into any key does not reach the terminal or the journal."""
    assert SECRET not in str(mistake(written(text)))
    monkeypatch.setenv("PIPCACHEPROXY_INDEX", f'[{{"name": "a", "url": "https://me:{SECRET}@example.com/"}}]')
    assert SECRET not in str(mistake())
    monkeypatch.setenv("PIPCACHEPROXY_INDEX", f'[{{"{SECRET}')
    assert SECRET not in str(mistake())


# --- the tokens of the admin API

LONG = f"{SECRET}-".ljust(32, "x")


def test_admin_tokens_come_from_the_file_the_environment_or_files_of_their_own(
    written: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What stands in the settings goes before what a file holds, the environment before the settings."""
    (tmp_path / "token").write_text(f"{LONG}-file\n")
    text = f'[admin]\ntoken_file = "{tmp_path}/token"\nread_token = "{LONG}-read"\n'
    admin = load(written(text)).admin
    writes, reads = admin.writes(), admin.reads()
    assert writes is not None
    assert reads is not None
    assert (writes.reveal(), reads.reveal()) == (f"{LONG}-file", f"{LONG}-read")
    (tmp_path / "token").write_text(f"{LONG}-rotated\n")
    assert writes.reveal() == f"{LONG}-rotated"
    monkeypatch.setenv("PIPCACHEPROXY_ADMIN__TOKEN", f"{LONG}-variable")
    monkeypatch.setenv("PIPCACHEPROXY_ADMIN__READ_TOKEN", "7" * 32)
    admin = load(written(text)).admin
    writes, reads = admin.writes(), admin.reads()
    assert writes is not None
    assert reads is not None
    assert (writes.reveal(), reads.reveal()) == (f"{LONG}-variable", "7" * 32)
    assert SECRET not in repr(admin) + str(admin.model_dump())
    assert (Settings().admin.writes(), Settings().admin.reads()) == (None, None)


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        (f'token = "{LONG[:31]}"', "admin.token", "expected a token of at least 32 characters"),
        (f'read_token = "{LONG[:31]}"', "admin.read_token", "expected a token of at least 32 characters"),
        ('token = ""', "admin.token", "expected a secret, it is empty"),
        (f'token = "{LONG} {LONG}"', "admin.token", "expected a token: letters, digits and marks of ASCII"),
        (f'token = "{LONG}\\u00e4"', "admin.token", "expected a token: letters, digits and marks of ASCII"),
        (f'token = "{LONG}\\nx"', "admin.token", "expected one line"),
        (f'token = ["{LONG}"]', "admin.token", "expected text in quotes"),
        ("token = 7", "admin.token", "expected text in quotes"),
        (f'token_file = "/nowhere/{SECRET}"', "admin.token_file", "expected a readable file that holds the secret"),
        ('token_file = "@SECRET_FILE@"', "admin.token_file", "expected a token of at least 32 characters"),
        (f'token = "{LONG}"\nread_token = "{LONG}"', "admin.read_token", "expected another token than the one"),
        (f'tokn = "{LONG}"', "admin.tokn", "unknown key"),
    ],
)
def test_a_bad_admin_token_names_its_key(written: Callable[[str], Path], text: str, key: str, expected: str) -> None:
    """One line with the key and what was expected, and nothing of the token."""
    found = mistake(written(f"[admin]\n{text}\n"))
    assert (found.key, SECRET in str(found)) == (key, False)
    assert found.message.startswith(expected)


def test_a_bad_admin_token_in_a_variable_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not the file that may have a good one."""
    monkeypatch.setenv("PIPCACHEPROXY_ADMIN__TOKEN", SECRET)
    found = mistake()
    assert "PIPCACHEPROXY_ADMIN__TOKEN" in found.message
    assert SECRET not in str(found)


# --- the secrets of an index, and its statuses


def basic(monkeypatch: pytest.MonkeyPatch, name: str = "A", password: str = SECRET) -> None:
    """Credentials of the index of that name, in capitals, in the environment."""
    monkeypatch.setenv(f"PIPCACHEPROXY_INDEX_{name}_USERNAME", "reader")
    monkeypatch.setenv(f"PIPCACHEPROXY_INDEX_{name}_PASSWORD", password)


def test_secrets_of_an_index_come_from_the_environment(
    written: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each index has variables of its own name; nothing that shows settings shows what is in them."""
    second = INDEX.replace('"a"', '"my-own.index_2"')
    basic(monkeypatch)
    monkeypatch.setenv("PIPCACHEPROXY_INDEX_MY_OWN_INDEX_2_TOKEN", f"{SECRET}-2")
    settings = load(written(INDEX + second))
    first, other = settings.index
    assert first.password is not None
    assert other.token is not None
    assert (first.username, first.password.get_secret_value(), first.token) == ("reader", SECRET, None)
    assert (other.username, other.password, other.token.get_secret_value()) == (None, None, f"{SECRET}-2")
    assert SECRET not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()} {first!r}"


def test_secrets_reach_an_index_that_the_environment_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole tables and their secrets may all be variables, as in a container."""
    monkeypatch.setenv("PIPCACHEPROXY_INDEX", ENVIRONMENT_INDEX)
    basic(monkeypatch)
    (index,) = load().index
    assert index.password is not None
    assert (index.username, index.password.get_secret_value()) == ("reader", SECRET)


@pytest.mark.parametrize(
    ("variables", "key", "message"),
    [
        ({"INDEX_B_TOKEN": SECRET}, "PIPCACHEPROXY_INDEX_B_TOKEN", "belongs to no index"),
        ({"INDEX_PYPI_TOKEN": SECRET}, "PIPCACHEPROXY_INDEX_PYPI_TOKEN", "belongs to no index"),
        ({"INDEX_C_D_TOKEN": SECRET}, "PIPCACHEPROXY_INDEX_C_D_TOKEN", "belongs to more than one index"),
        ({"INDEX_A_TOKEN": ""}, "index[0].token", "expected one line of text (PIPCACHEPROXY_INDEX_A_TOKEN)"),
        ({"INDEX_A_TOKEN": f"{SECRET}\n"}, "index[0].token", "expected one line of text (PIPCACHEPROXY_INDEX_A_TOKEN)"),
        ({"INDEX_A_USERNAME": f"{SECRET}:"}, "index[0].username", "expected a user name on one line, without a colon"),
        ({"INDEX_A_USERNAME": SECRET}, "index[0].username", "needs a password"),
        ({"INDEX_A_PASSWORD": SECRET}, "index[0].username", "is required with a password"),
        ({"INDEX_A_TOKEN": SECRET, "INDEX_A_USERNAME": "x"}, "index[0].username", "expected either a username"),
        ({"INDEX_A_SECRET": SECRET}, "PIPCACHEPROXY_INDEX_A_SECRET", "unknown variable"),
        ({"INDEX": '[{"name": "x", "url": "https://example.com/", "token": "hunter2-canary"}]'},
         "index[0].token", "is not taken from here"),
        ({"INDEX": "[", "INDEX_A_TOKEN": SECRET}, "index", "expected a list in JSON"),
        ({"INDEX": "{}", "INDEX_A_TOKEN": SECRET}, "index", "expected a list of tables"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_secret_names_its_variable_or_key(
    written: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    variables: Mapping[str, str],
    key: str,
    message: str,
) -> None:
    """A secret that nobody would use is noticed, and never repeated."""
    for name, value in variables.items():
        monkeypatch.setenv(f"PIPCACHEPROXY_{name}", value)
    error = mistake(written("".join(INDEX.replace('"a"', f'"{name}"') for name in ("a", "c-d", "c.d"))))
    assert (error.key, error.message.startswith(message)) == (key, True), error
    assert SECRET not in str(error)


def test_the_environment_comes_before_the_file_of_a_secret(
    written: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both may be there: the variable is the one that counts, as for every key."""
    basic(monkeypatch)
    (index,) = load(written(f'{INDEX}password_file = "@SECRET_FILE@"')).index
    assert index.password is not None
    assert index.password_file is not None


@pytest.mark.parametrize(
    ("said", "meant"),
    [("[]", (404, 410)), ("[404, 403]", (403, 404, 410)), ("[410, 402]", (402, 404, 410)), ('"403"', (403, 404, 410))],
)
def test_statuses_that_mean_missing(written: Callable[[str], Path], said: str, meant: tuple[int, ...]) -> None:
    """404 and 410 always do."""
    (index,) = load(written(f"{INDEX}missing_status = {said}")).index
    assert index.missing_status == meant


# --- the certificate


@pytest.fixture
def pem(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate and its key."""
    issued = trustme.CA().issue_cert("localhost")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    issued.cert_chain_pems[0].write_to_path(str(certificate))
    issued.private_key_pem.write_to_path(str(key))
    return certificate, key


def tls(certificate: Path, key: Path) -> str:
    """A file of settings with this pair."""
    return f'[server]\ntls_cert = "{certificate}"\ntls_key = "{key}"\n'


def test_a_certificate_and_its_key(written: Callable[[str], Path], pem: tuple[Path, Path]) -> None:
    """A pair that fits is taken, by its absolute paths."""
    server = load(written(tls(*pem))).server
    assert (server.tls_cert, server.tls_key) == pem


@pytest.mark.parametrize(("given", "missing"), [("tls_cert", "tls_key"), ("tls_key", "tls_cert")])
def test_half_a_pair(written: Callable[[str], Path], given: str, missing: str) -> None:
    """Serving plain http after all would be a surprise: the other half is asked for."""
    error = mistake(written(f'[server]\n{given} = "/nowhere/a.pem"'))
    assert str(error) == f"server.{missing}: is required with {given}"


def test_a_certificate_with_the_key_of_another(written: Callable[[str], Path], pem: tuple[Path, Path]) -> None:
    """The usual slip of a renewal is found at start, not by the first client."""
    trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(str(pem[1]))
    config = written(tls(*pem))
    error = mistake(config)
    assert str(error) == f"server.tls_key: does not belong to the certificate in tls_cert (in {config})"


def test_a_key_with_a_password_does_not_ask_for_it(written: Callable[[str], Path], pem: tuple[Path, Path]) -> None:
    """A service has no terminal: it says so instead of waiting for one."""
    loaded = serialization.load_pem_private_key(pem[1].read_bytes(), None)
    shape, secret = serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(SECRET.encode())
    pem[1].write_bytes(loaded.private_bytes(serialization.Encoding.PEM, shape, secret))
    error = mistake(written(tls(*pem)))
    assert (error.key, "without a password" in error.message) == ("server.tls_key", True)


# --- spellings


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("20GB", 20 * 10**9),
        ("64MiB", 64 * 2**20),
        ("1.5 kB", 1500),
        ("0.1GB", 10**8),
        ("5gib", 5 * 2**30),
        (" 2 TB ", 2 * 10**12),
        ("12B", 12),
        ("12", 12),
        (12, 12),
        (0, 0),
        ("0MB", 0),
    ],
)
def test_sizes(text: object, size: int) -> None:
    """Decimal and binary units, and plain bytes."""
    assert spelling.parse_size(text) == size


@pytest.mark.parametrize(
    "value", ["", "GB", "1G", "-1GB", "1.0001kB", "0.5", "1e9", "1 GB 2", -1, 1.0, True, None, 10**19]
)
def test_what_is_no_size(value: object) -> None:
    """Neither negative, nor parts of a byte, nor units that mean two things."""
    with pytest.raises(ValueError, match="expected a size"):
        spelling.parse_size(value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10m", 600.0),
        ("1.5s", 1.5),
        ("500ms", 0.5),
        ("7d", 604_800.0),
        ("1w", 604_800.0),
        ("2 h", 7200.0),
        ("0s", 0.0),
        ("30", 30.0),
        (30, 30.0),
        (0.25, 0.25),
    ],
)
def test_durations(text: object, seconds: float) -> None:
    """Units from milliseconds to weeks, and plain seconds."""
    assert spelling.parse_duration(text) == seconds


@pytest.mark.parametrize(
    "value",
    ["", "s", "-1s", "10M", "1y", "1h30m", "inf", "nan", -0.1, float("inf"), float("nan"), True, None, "11000d"],
)
def test_what_is_no_duration(value: object) -> None:
    """Neither negative, nor endless, nor not a number."""
    with pytest.raises(ValueError, match="expected a duration"):
        spelling.parse_duration(value)


@given(st.integers(0, spelling.LARGEST))
def test_sizes_read_back(count: int) -> None:
    """What is shown means what was meant."""
    assert spelling.parse_size(spelling.show_size(count)) == count


@given(st.integers(0, int(spelling.LONGEST * 1000)))
def test_durations_read_back(milliseconds: int) -> None:
    """What is shown means what was meant, to the millisecond."""
    assert spelling.parse_duration(spelling.show_duration(milliseconds / 1000)) == milliseconds / 1000


PARSERS: list[Callable[[str], object]] = [
    spelling.parse_size,
    spelling.parse_duration,
    spelling.parse_port,
    spelling.parse_count,
    spelling.parse_host,
    spelling.parse_hosts,
    spelling.parse_public_url,
    spelling.parse_trusted_proxy,
    spelling.parse_missing_status,
    spelling.parse_username,
    lambda text: spelling.parse_secret_file(Path(text)),
    lambda text: spelling.parse_socket_path(Path(text)),
    lambda text: spelling.parse_pem_file(Path(text)),
    spelling.parse_allowed_host,
    spelling.parse_index_name,
    spelling.parse_index_url,
    spelling.parse_mount_url,
    spelling.parse_proxy_url,
    spelling.parse_list,
]


def message_of(parse: Callable[[str], object], text: str) -> str | None:
    """What a parser has to say against a text, None for nothing."""
    try:
        parse(text)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("parse", PARSERS)
@given(text=st.text() | st.from_regex(r"\A(https?://)?[\[\]:/@a-z0-9%.]*\Z"))
@example(text="0" * 300)
def test_spellings_only_ever_raise_errors_of_ours(parse: Callable[[str], object], text: str) -> None:
    """Whatever a file holds, a mistake is a mistake and not a crash, and its message is our own."""
    assert (message_of(parse, text) or "expected").startswith("expected")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://example.com/simple", "https://example.com/simple/"),
        ("https://example.com/simple//", "https://example.com/simple/"),
        ("HTTP://Example.COM:8080", "http://example.com:8080/"),
        ("http://[::1]:3141/Root/+simple/", "http://[::1]:3141/Root/+simple/"),
    ],
)
def test_index_urls(url: str, expected: str) -> None:
    """Scheme and host are lower-cased (RFC 3986 §6.2.2.1), and one slash ends it."""
    assert spelling.parse_index_url(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com/simple",
        "ftp://example.com/",
        "file:///srv/simple",
        "https://",
        "https://:443/",
        "https://example.com:/",
        "https://example.com:0/",
        "https://example.com:99999/",
        "https://example.com:x/",
        "https://[::1/",
        "https://user@example.com/",
        "https://user:word@example.com/",
        "https://example.com/?",
        "https://example.com/#a",
        "https://example.com/a b",
        "https://example.com/\n",
        "https:\\\\example.com",
        "https://exämple.com/",
    ],
)
def test_what_is_no_index_url(url: str) -> None:
    """http or https with a host, and nothing that would not be sent as it stands."""
    with pytest.raises(ValueError, match="expected the URL of a Simple API"):
        spelling.parse_index_url(url)
    with pytest.raises(ValueError, match="expected the URL of a directory"):
        spelling.parse_mount_url(url)


@pytest.mark.parametrize(
    "url", ["https://127.0.0.1:3128", "http://u:p@127.0.0.1:3128", "http://127.0.0.1/x", "socks5://a"]
)
def test_what_is_no_forward_proxy(url: str) -> None:
    """http only, and without credentials or path."""
    with pytest.raises(ValueError, match="expected the URL of a forward proxy"):
        spelling.parse_proxy_url(url)


def test_forward_proxy_urls() -> None:
    """A final slash is no path."""
    assert spelling.parse_proxy_url("http://Proxy.example.com:3128/") == "http://proxy.example.com:3128"


@pytest.mark.parametrize(
    ("host", "expected"), [("0.0.0.0", "0.0.0.0"), ("[::1]", "::1"), ("::", "::"), ("fe80::1%eth0", "fe80::1%eth0")]
)
def test_hosts_to_listen_on(host: str, expected: str) -> None:
    """IPv6 with or without brackets."""
    assert spelling.parse_host(host) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("127.0.0.1", ("127.0.0.1",)),
        ("127.0.0.1,[::1]", ("127.0.0.1", "::1")),
        ("[::1]", ("::1",)),
        ("[::1], 127.0.0.1", ("::1", "127.0.0.1")),
        ('["[::1]"]', ("::1",)),
        (["localhost", "::1", "localhost"], ("localhost", "::1")),
        ([], ()),
    ],
)
def test_several_hosts_to_listen_on(value: object, expected: tuple[str, ...]) -> None:
    """A text, several in one, or a list; each once."""
    assert spelling.parse_hosts(value) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("127.0.0.1", "127.0.0.1/32"), ("10.0.0.0/8", "10.0.0.0/8"), ("::1", "::1/128"), ("FD00::/8", "fd00::/8"),
     ("unix", "unix")],
)  # fmt: skip
def test_trusted_proxies(text: str, expected: str) -> None:
    """Addresses and networks of both families, and those who may open the socket."""
    assert str(spelling.parse_trusted_proxy(text)) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [("https://Example.com", "https://example.com"), ("http://[::1]:3143/", "http://[::1]:3143"),
     ("https://example.com/PyPI//", "https://example.com/PyPI")],
)  # fmt: skip
def test_public_urls(url: str, expected: str) -> None:
    """With a path, and without its final slash."""
    assert spelling.parse_public_url(url) == expected


def test_paths_are_absolute_with_home_expanded(
    written: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What the process works with does not depend on where it stands later."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert load(written('[cache]\ndir = "~/c"')).cache.dir == tmp_path / "c"
    assert load(written('[cache]\ndir = "c"')).cache.dir == tmp_path / "c"
