"""The command: what it teaches, what it checks, and an exit code with one line for every mistake."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from proxy import __version__, cli
from proxy.directory import claim, release
from tests.harness.certificates import pair
from tests.harness.server import ProxyServer, clean_environment

ROOT = Path(__file__).resolve().parents[1]
INDEX = '[[index]]\nname = "internal"\nurl = "http://127.0.0.1:1/simple/"\n'


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the settings of whoever runs it."""
    for name in list(os.environ):
        if name.upper().startswith("PIPCACHEPROXY_"):
            monkeypatch.delenv(name)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A file of settings with one index, and a cache that is not there yet."""
    path = tmp_path / "config.toml"
    path.write_text(f'[server]\nport = 0\n[cache]\ndir = "{tmp_path / "cache"}"\n{INDEX}')
    return path


def run(*arguments: str, program: tuple[str, ...] = ("-m", "proxy")) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, to its end."""
    return subprocess.run(
        [sys.executable, *program, *arguments],
        cwd=ROOT,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """The one line on standard error, without the program's name; nothing stands on standard output."""
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("pip-cache-proxy: ")
    return line.removeprefix("pip-cache-proxy: ")


# --- help, usage, version


def test_version_of_module_and_command_is_the_same() -> None:
    """``python -m proxy`` is the installed command."""
    installed = shutil.which("pip-cache-proxy", path=str(Path(sys.executable).parent))
    said = [run("--version").stdout]
    if installed is not None:
        said.append(subprocess.run([installed, "--version"], capture_output=True, text=True, check=True).stdout)
    assert set(said) == {f"pip-cache-proxy {__version__}\n"}


def test_help_teaches_the_one_variable() -> None:
    """Whoever reads only --help can use it."""
    said = run("--help").stdout
    assert "PIP_INDEX_URL=http://127.0.0.1:3143/simple" in said
    assert "UV_DEFAULT_INDEX=http://127.0.0.1:3143/simple" in said
    assert re.search(r"^ +serve +run", said, re.MULTILINE)
    assert re.search(r"^ +check +read", said, re.MULTILINE)
    assert re.search(r"^ +cache +see", said, re.MULTILINE)


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("serve", {"--help", "--config", "--host", "--port", "--cache-dir", "--offline"}),
        ("check", {"--help", "--config", "--deep"}),
    ],
)
def test_help_of_a_command_lists_its_options_and_examples(command: str, options: set[str]) -> None:
    """Every option has a line, every command an example, and both say where else settings come from."""
    said = run(command, "--help").stdout
    assert set(re.findall(r"^  (?:-\w, )?(--[\w-]+)", said, re.MULTILINE)) == options
    assert f"  pip-cache-proxy {command}" in said
    assert "config.example.toml" in said


@pytest.mark.parametrize(
    "arguments",
    [(), ("cach",), ("serve", "--prot", "1"), ("serve", "--off"), ("serve", "x"), ("check", "--port", "1")],
)
def test_wrong_usage_exits_with_2(arguments: tuple[str, ...]) -> None:
    """As argparse does; abbreviations are not guessed, for they would change meaning with a new option."""
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: pip-cache-proxy" in done.stderr


def test_help_needs_nothing_heavy() -> None:
    """--help and --version answer at once: what is heavy is imported by the command that needs it."""
    heavy = {"asyncio", "aiohttp", "pydantic", "pypi_simple", "cachecontrol", "diskcache", "sqlite3", "ssl"}
    done = run("-c", "import sys, proxy.cli; print(*sys.modules)", program=())
    assert heavy.isdisjoint(done.stdout.split())


# --- check


def test_check_says_what_would_be_served(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every index, where it answers, the cache and its limits; and nothing is made."""
    second = '[[index]]\nname = "b"\nurl = "https://example.com"\nproxy = "http://127.0.0.1:3128"\nprivate = true\n'
    more = '[freshness]\noffline = true\n[limits]\npage_max = "32MiB"\nrest_max = "2m"\n'
    config.write_text(config.read_text() + second + more)
    assert cli.main(["check", "--config", str(config)]) == 0
    said, complaints = capsys.readouterr()
    assert complaints == ""
    assert "http://127.0.0.1:0/simple" in said
    assert "internal: http://127.0.0.1:1/simple/, credentials: none\n" in said
    assert "b at /index/b/simple: https://example.com/ through http://127.0.0.1:3128, private networks" in said
    assert "only what is cached" in said
    assert f"{config.parent / 'cache'} (will be made)" in said
    assert "20GB of files, 2GB of pages" in said
    assert "32MiB" in said
    assert "after 5 failures in 30s, is asked again every 5s, and rests at most 2m" in said
    assert not (config.parent / "cache").exists()


def test_check_names_mounts(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each with where it answers, how long it is fresh, and whether it is shown credentials."""
    mounts = '[[mount]]\nname = "a"\nurl = "https://example.com/x"\n[[mount]]\nname = "b"\nurl = "http://127.0.0.1:1"\n'
    config.write_text(config.read_text() + mounts + 'default_ttl = "1m"\npass_credentials = true\n')
    assert cli.main(["check", "--config", str(config)]) == 0
    said = capsys.readouterr().out
    assert "\nmount      a at /raw/a/: https://example.com/x/, fresh for 0s where it does not say\n" in said
    assert "\nmount      b at /raw/b/: http://127.0.0.1:1/, fresh for 1m where it does not say, credentials are" in said
    assert "2GB of pages, 10GB of mounts" in said


def test_check_of_the_defaults_names_pypi(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a file there is still something to serve."""
    assert cli.main(["check"]) == 0
    assert re.search(r"^index +pypi: https://.*/simple/, credentials: none$", capsys.readouterr().out, re.MULTILINE)


def test_check_puts_ipv6_in_brackets(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The address can be copied into a client's settings."""
    config.write_text(config.read_text().replace("port = 0", 'host = "::1"'))
    assert cli.main(["check", "--config", str(config)]) == 0
    assert "http://[::1]:3143/simple" in capsys.readouterr().out


def test_check_says_where_it_would_listen(config: Path, near: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every address, the socket, the certificate, what stands in front; and how each index is asked, but no secret."""
    made = pair(config.parent / "pem")
    secret = config.parent / "secret"
    secret.write_text("hunter2-canary")
    server = f'''host = ["127.0.0.1", "::1"]
unix_socket = "{near / "socket"}"
tls_cert = "{made.certificate}"
tls_key = "{made.key}"
public_url = "https://example.com/pypi/"
trusted_proxies = ["127.0.0.1", "unix"]
'''
    text = config.read_text().replace("port = 0", server)
    text += f'username = "reader"\npassword_file = "{secret}"\nmissing_status = [403]\n'
    text += f'[[index]]\nname = "b"\nurl = "https://example.com"\ntoken_file = "{secret}"\n'
    config.write_text(text)
    assert cli.main(["check", "--config", str(config)]) == 0
    said = capsys.readouterr().out
    for line in (
        "address    https://127.0.0.1:3143/simple\n",
        "address    https://[::1]:3143/simple\n",
        f"address    {near / 'socket'} (http)\n",
        f"tls        certificate {made.certificate}, key {made.key}\n",
        "public     https://example.com/pypi/simple\n",
        "trusts     X-Forwarded-* from 127.0.0.1/32, unix\n",
        f"/simple/, credentials: Basic as reader, from {secret}, 403 means missing\n",
        f"https://example.com/, credentials: bearer token, from {secret}\n",
    ):
        assert line in said
    assert "hunter2" not in said


def test_check_names_the_process_that_holds_the_cache(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A cache in use is no mistake, but worth knowing; afterwards it is free again, and check kept nothing."""
    held = claim(config.parent / "cache")
    try:
        assert cli.main(["check", "--config", str(config)]) == 0
        assert f"(in use by process {os.getpid()})" in capsys.readouterr().out
    finally:
        release(held)
    assert cli.main(["check", "--config", str(config)]) == 0
    assert "(there, writable)" in capsys.readouterr().out
    release(claim(config.parent / "cache"))


def test_check_takes_the_number_of_a_killed_process_for_nobody(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After kill -9 the lock file still holds a number, but no lock."""
    (config.parent / "cache").mkdir()
    (config.parent / "cache" / "lock").write_text("1\n")
    assert cli.main(["check", "--config", str(config)]) == 0
    assert "(there, writable)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "key"),
    [("[server]\nport = 1e9", "server.port"), ("[server]\nnothing = 1", "server.nothing"), ("[server", "config.toml")],
)
def test_check_finds_mistakes(config: Path, text: str, key: str) -> None:
    """Exit code 78 and one line that names the key."""
    config.write_text(text)
    done = run("check", "--config", str(config))
    assert done.returncode == cli.EX_CONFIG
    assert key in complaint(done).partition(" ")[0]


def test_check_finds_a_cache_directory_that_is_a_file(config: Path) -> None:
    """The directory itself, or one above it."""
    for blocked in ("cache", "cache/below"):
        (config.parent / "cache").write_text("")
        config.write_text(f'[cache]\ndir = "{config.parent / blocked}"\n{INDEX}')
        done = run("check", "--config", str(config))
        assert done.returncode == cli.EX_CONFIG
        assert complaint(done) == f"cache.dir: {config.parent / 'cache'} is not a directory"


READ_ONLY = 'mount -t tmpfs -o ro none "$1" && exec "$2" -m proxy check --config "$3"'
"""Root may write anywhere, but for a file system that is read-only."""


def test_check_finds_a_cache_directory_that_cannot_be_written(config: Path) -> None:
    """Neither in it nor below it."""
    if subprocess.run(["unshare", "-Urm", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("unshare (util-linux) cannot make a mount namespace here")
    mounted = config.parent / "cache"
    mounted.mkdir()
    for directory, wrong in (("cache", "cannot be written to"), ("cache/below", "cannot be made in")):
        config.write_text(f'[cache]\ndir = "{config.parent / directory}"\n{INDEX}')
        command = ["unshare", "-Urm", "sh", "-c", READ_ONLY, "sh", str(mounted), sys.executable, str(config)]
        done = subprocess.run(
            command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, wrong in complaint(done)) == (cli.EX_CONFIG, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_check_finds_a_cache_directory_of_another_user(config: Path) -> None:
    """The server would refuse it: whoever can write there can choose what others install."""
    (config.parent / "cache").mkdir()
    os.chown(config.parent / "cache", 65_534, 65_534)
    done = run("check", "--config", str(config))
    assert (done.returncode, "belongs to another user" in complaint(done)) == (cli.EX_CONFIG, True)


# --- serve: what keeps it from starting


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (("--port", "65536"), "server.port:"),
        (("--port", "http"), "server.port:"),
        (("--host", "http://127.0.0.1"), "server.host:"),
        (("--cache-dir", ""), "cache.dir:"),
        (("--config", "/nowhere/config.toml"), "/nowhere/config.toml:"),
    ],
)
def test_a_bad_setting_exits_with_78(arguments: tuple[str, ...], key: str) -> None:
    """From whatever place: one line, which begins with the key."""
    done = run("serve", *arguments)
    assert done.returncode == cli.EX_CONFIG
    assert complaint(done).startswith(key)


def test_an_address_in_use_exits_with_71(config: Path) -> None:
    """The line names the address and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("serve", "--config", str(config), "--port", str(port))
    assert done.returncode == cli.EX_OSERR
    assert complaint(done) == (
        f"server.port: 127.0.0.1:{port} is in use; stop what listens there, or choose another with --port"
    )


def test_what_a_killed_server_said_of_its_address_is_gone_with_the_next_start(config: Path) -> None:
    """Before the next one listens: in a container both have one number, and the old address would be believed."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run("serve", "--config", str(config), "--port", str(port))
        address = config.parent / "cache" / "address"
        address.write_text("{}")
        assert run("serve", "--config", str(config), "--port", str(port)).returncode == cli.EX_OSERR
    assert not address.exists()


def test_an_address_of_another_machine_exits_with_71(config: Path) -> None:
    """192.0.2.0/24 is for documentation (RFC 5737): no machine has it."""
    done = run("serve", "--config", str(config), "--host", "192.0.2.1")
    assert done.returncode == cli.EX_OSERR
    assert complaint(done).startswith("server.host: cannot listen on 192.0.2.1:0: ")


def test_a_cache_directory_that_is_no_directory_exits_with_73(config: Path) -> None:
    """The line names the key and the directory."""
    (config.parent / "cache").write_text("")
    done = run("serve", "--config", str(config))
    assert done.returncode == cli.EX_CANTCREAT
    assert complaint(done).startswith(f"cache.dir: {config.parent / 'cache'}: ")


@pytest.mark.parametrize("format_", ["text", "json"])
def test_the_start_line_names_mounts(tmp_path: Path, format_: str) -> None:
    """Where each is to be found, and where it leads."""
    index, mount = "http://127.0.0.1:1/simple/", "http://127.0.0.1:1/tree/"
    log = {"log": {"format": format_}}
    with ProxyServer(tmp_path, {"a": index}, mounts={"m": mount, "n": mount}, settings=log) as server:
        assert f"; /raw/m/ is {mount}; /raw/n/ is {mount}; " in server.stderr
        if format_ == "json":
            assert server.log_lines("started")[0]["mounts"] == ["m", "n"]


def test_flags_reach_the_settings() -> None:
    """Only the flags that were given, nested like the file."""
    parse = cli._parser().parse_args
    assert cli.flags(parse(["serve"])) == {}
    given = parse(["serve", "--host", "::", "--port", "1", "--cache-dir", "c", "--offline"])
    assert cli.flags(given) == {
        "server": {"host": ["::"], "port": "1"},
        "cache": {"dir": "c"},
        "freshness": {"offline": True},
    }


@pytest.mark.parametrize("words", [("check",), ("cache", "--help"), ("cache", "dir")], ids=" ".join)
def test_nobody_reads_what_is_said(words: tuple[str, ...]) -> None:
    """``| true``: no trace of ours on standard error, and the exit code of who meets a closed pipe."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "proxy", *words],
            cwd=ROOT,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=closed,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert (done.stderr, done.returncode) == (b"", 141)
