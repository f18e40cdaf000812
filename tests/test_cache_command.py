"""``pip-cache-proxy cache``: its words, what it refuses, whom it asks, and what it does when nobody answers."""

from __future__ import annotations

import http.server
import io
import json
import os
import re
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from proxy import cachecommand, cli, pipwords
from proxy.address import address_for, find, published
from proxy.cacheoptions import VERBS, WrongUse, read
from proxy.directory import claim, release
from proxy.remote import CannotAsk, Remote, server_at, server_of
from tests.harness.certificates import pair
from tests.harness.server import clean_environment

Done = subprocess.CompletedProcess[str]
ROOT = Path(__file__).resolve().parents[1]
TOKEN = "canary-" + "t" * 40
INFO: dict[str, Any] = {
    "dir": "/c",
    "locations": {"wheels": "/c/wheels", "responses": "/c/responses", "mounts": "/c/mounts"},
    "wheels": {"count": 2, "bytes": 25_300},
    "sdists": {"count": 1, "bytes": 999},
    "responses": {"count": 7, "bytes": 1_500_000},
    "mounts": {"count": 4, "bytes": 3_000_000},
}
# What a terminal would obey, and what is no number of bytes, or a strange one.
STRANGE: tuple[Any, ...] = ("\x1b[2J", "1", None, True, -1, 1.5, float("nan"), float("inf"), 10**400)


def run(*words: str, environment: Mapping[str, str] | None = None) -> Done:
    """``pip-cache-proxy cache`` with these words, in this process: starting another takes longer than its work."""
    said, complained = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, clean_environment(environment), clear=True),
        redirect_stdout(said),
        redirect_stderr(complained),
    ):
        try:
            code = cli.main(["cache", *words])
        except SystemExit as end:
            code = int(end.code or 0)
    return Done(list(words), code, said.getvalue(), complained.getvalue())


def file(filename: str | None, size: int = 13_000, **more: object) -> dict[str, Any]:
    """A file as a list of the API has it."""
    path = None if filename is None else f"wheels/ab/0123/{filename}"
    about = {"project": "six", "index": "pypi", "kind": "wheel", "what": "file", "filename": filename, "path": path}
    return {**about, "size": size, **more}


# --- words


def test_info_has_the_lines_of_pip_and_ours_for_the_rest() -> None:
    """In pip's order; what pip has none of comes last."""
    assert pipwords.info(INFO) == [
        "Package index page cache location: /c/responses",
        "Package index page cache size: 1.5 MB",
        "Number of HTTP files: 7",
        "Locally built wheels location: /c/wheels",
        "Locally built wheels size: 25 kB",
        "Number of locally built wheels: 2",
        "Source distributions size: 999 bytes",
        "Number of source distributions: 1",
        "Mounts location: /c/mounts",
        "Mounts size: 3.0 MB",
        "Number of files of mounts: 4",
    ]


@pytest.mark.parametrize(
    ("about", "line"),
    [
        (file("six-1.17.0-py2.py3-none-any.whl"), " - six-1.17.0-py2.py3-none-any.whl (13 kB)"),
        (file("six-1.tar.gz", 1_001, kind="sdist"), " - six-1.tar.gz (1.0 kB)"),
        (file(None, 12, kind="response", what="page"), " - page of six (index pypi) (12 bytes)"),
        (file(None, 12, kind="response", what="projects", project=""), " - projects (index pypi) (12 bytes)"),
        (file(None, 12, kind="mount", what="raw", index="m", url="http://o/a/"), " - http://o/a/ (mount m) (12 bytes)"),
        (file(None, 12, kind="mount", what="raw", index="m", url=None), " - raw (mount m) (12 bytes)"),
        (file("six\x1b[31m-1\n.whl", 1), " - six?[31m-1?.whl (1 bytes)"),
    ],
)
def test_a_line_of_a_list(about: dict[str, Any], line: str) -> None:
    """A file by its name, a response by what it is; nothing in it steers a terminal."""
    assert pipwords.item(about) == line


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        ((), "No locally built wheels cached."),
        (("sdist", "wheel"), "No locally built wheels cached."),
        (("sdist",), "No source distributions cached."),
        (("response", "sdist"), "No source distributions or responses cached."),
        (("mount",), "No files of mounts cached."),
        (("mount", "sdist"), "No source distributions or files of mounts cached."),
    ],
)
def test_an_empty_list_says_what_there_is_none_of(kinds: tuple[str, ...], said: str) -> None:
    """In pip's words, unless wheels were not asked for."""
    assert pipwords.listing([], kinds) == [said]


def test_a_list_is_sorted_by_its_lines() -> None:
    """As pip does it; the empty line belongs to the heading."""
    assert pipwords.listing([" - b (1 bytes)", " - B (1 bytes)", " - a (1 bytes)"], ()) == [
        "Cache contents:\n",
        " - B (1 bytes)",
        " - a (1 bytes)",
        " - b (1 bytes)",
    ]


def test_a_removal_says_how_much_went_and_on_request_what() -> None:
    """With a directory, which is -v, every path; a response in a database is named."""
    removed = [file("six-1.whl", 600), file(None, 500, what="page")]
    answer = {"removed": removed, "count": 2, "bytes": 1_100, "directories": 2, "dry_run": False}
    assert pipwords.removal(answer, None) == ["Files removed: 2 (1.1 kB)", "Directories removed: 2"]
    assert pipwords.removal(answer, "/c") == [
        "Removed /c/wheels/ab/0123/six-1.whl",
        "Removed page of six (index pypi)",
        "Files removed: 2 (1.1 kB)",
        "Directories removed: 2",
    ]


def test_a_dry_run_says_what_would_go_and_that_nothing_did() -> None:
    """In words that cannot be taken for a removal's."""
    answer = {"removed": [file("six-1.whl", 600)], "count": 1, "bytes": 600, "directories": 0, "dry_run": True}
    assert pipwords.removal(answer, "/c") == [
        "Would remove:\n",
        " - six-1.whl (600 bytes)",
        "Files that would be removed: 1 (600 bytes)",
        "Nothing was removed.",
    ]
    nothing = {**answer, "removed": [], "count": 0, "bytes": 0}
    assert pipwords.removal(nothing, None)[0] == "Files that would be removed: 0 (0 bytes)"


@pytest.mark.parametrize(
    ("pattern", "warning"),
    [
        ("six", 'No matching packages for pattern "six"'),
        ("", 'No matching packages for pattern ""'),
        ("*", "No matching packages"),
        (None, "No matching packages"),
    ],
)
def test_nothing_matched(pattern: str | None, warning: str) -> None:
    """pip names the pattern, unless it is everything."""
    assert pipwords.no_match(pattern) == warning


# --- the words of the command line

WRONG_USES = {
    (): "Need an action (dir, info, list, purge, remove) to perform.",
    ("bogus",): "Need an action (dir, info, list, purge, remove) to perform.",
    ("LIST",): "Need an action (dir, info, list, purge, remove) to perform.",
    ("dir", "x"): "Too many arguments",
    ("info", "x"): "Too many arguments",
    ("list", "a", "b"): "Too many arguments",
    ("purge", "x"): "Too many arguments",
    ("remove", "a", "b"): "Too many arguments",
    ("remove",): "Please provide a pattern",
}


@pytest.mark.parametrize(("words", "line"), WRONG_USES.items(), ids=" ".join)
def test_wrong_uses_are_pips(words: tuple[str, ...], line: str) -> None:
    """Which ones, and in which words."""
    with pytest.raises(WrongUse) as caught:
        read(words)
    assert str(caught.value) == line


def test_a_wrong_use_is_one_line_and_1() -> None:
    """On standard error, as pip has it."""
    done = run("remove")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "ERROR: Please provide a pattern\n")


def test_options_stand_anywhere_and_two_dashes_end_them() -> None:
    """As pip reads its own line."""
    question = read(["--format", "abspath", "-v", "list", "--kind=sdist", "--kind", "wheel", "six", "--index", "b"])
    assert (question.verb, question.pattern, question.format, question.verbose) == ("list", "six", "abspath", True)
    assert question.filters == {"kind": ["sdist", "wheel"], "index": "b"}
    assert read(["remove", "--", "-x"]).pattern == "-x"
    assert read(["dir", "--format", "abspath"]).format == "abspath"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("purge", "--project", "six"), "--project option is for list and remove"),
        (("purge", "--index", ""), "--index option is for list and remove"),
        (("info", "--kind", "wheel"), "--kind option is for list and remove"),
        (("list", "--dry-run"), "--dry-run option is for remove and purge"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(
    words: tuple[str, ...], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever narrows a purge must not see everything go."""
    with pytest.raises(SystemExit) as caught:
        read(words)
    assert caught.value.code == 2
    assert capsys.readouterr().err.endswith(f"\n{line}\n")


@pytest.mark.parametrize("verb", [(), *((each,) for each in VERBS)], ids=" ".join)
def test_help_teaches(verb: tuple[str, ...]) -> None:
    """Each verb has a line of usage, an example, and only options that it takes."""
    done = run(*verb, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    examples = re.findall(r"^ {2}pip-cache-proxy cache (\w+)", done.stdout.partition("Examples:")[2], re.MULTILINE)
    assert examples
    assert set(examples) <= set(verb or VERBS)
    assert ("--dry-run" in done.stdout.partition("Options:")[2]) == (verb in ((), ("remove",), ("purge",)))
    assert ("--project=NAME" in done.stdout) == (verb in ((), ("list",), ("remove",)))
    assert "--token-file=FILE" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 110


def test_what_is_heavy_waits_until_it_is_needed() -> None:
    """Help and wrong use answer at once, and asking a server by its URL needs no settings."""
    code = "import sys, proxy.cachecommand, proxy.address; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy = {"asyncio", "aiohttp", "pydantic", "pypi_simple", "cachecontrol", "diskcache", "sqlite3"}
    assert heavy.isdisjoint(done.stdout.split())


# --- the address a server leaves


@pytest.mark.parametrize(
    ("addresses", "tls", "hosts", "url", "host"),
    [
        ([("127.0.0.1", 3143)], False, (), "http://127.0.0.1:3143", "127.0.0.1:3143"),
        ([("0.0.0.0", 80), ("::1", 80)], False, (), "http://127.0.0.1:80", "127.0.0.1:80"),
        ([("::", 80)], True, (), "https://[::1]:80", "[::1]:80"),
        ([("fe80::1%eth0", 80)], False, (), "http://[fe80::1%eth0]:80", "[fe80::1]:80"),
        ([("192.0.2.1", 80)], False, ("example.com", "192.0.2.1"), "http://192.0.2.1:80", "192.0.2.1:80"),
        ([("192.0.2.1", 80)], False, ("example.com", "192.0.2.1:80"), "http://192.0.2.1:80", "192.0.2.1:80"),
        ([("192.0.2.1", 80)], False, ("example.com", "192.0.2.1:8"), "http://192.0.2.1:80", "example.com"),
        ([], False, (), None, "localhost"),
        ([], False, ("example.com",), None, "example.com"),
    ],
)
def test_the_address_reaches_the_server_from_here(
    addresses: list[tuple[str, int]], tls: bool, hosts: tuple[str, ...], url: str | None, host: str
) -> None:
    """Everywhere becomes the loopback, and the Host field is one that is answered to."""
    made = address_for(addresses, Path("/run/s"), Path("/cert.pem") if tls else None, hosts)
    assert (made.url, made.host, made.unix_socket, made.pid) == (url, host, "/run/s", os.getpid())
    assert made.tls_cert == ("/cert.pem" if tls else None)


def test_the_address_is_there_while_it_is_published(tmp_path: Path) -> None:
    """For its owner alone, over one that a killed server left; gone afterwards."""
    address = address_for([("127.0.0.1", 1)], None, None, ())
    (tmp_path / "address").write_text("{")
    assert find(tmp_path) is None
    with published(tmp_path, address):
        assert find(tmp_path) == address
        assert stat.S_IMODE((tmp_path / "address").stat().st_mode) == 0o600
        assert os.listdir(tmp_path) == ["address"]
    assert os.listdir(tmp_path) == []


def test_a_disk_that_takes_no_address_is_no_reason_not_to_serve(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says what that means."""
    with published(tmp_path / "gone", address_for([("127.0.0.1", 1)], None, None, ())):
        pass
    assert "the command will not find this server without --url" in caplog.text


# --- whom it asks


@pytest.mark.parametrize(
    ("url", "host", "port", "prefix", "near"),
    [
        ("http://127.0.0.1:3143", "127.0.0.1", 3143, "", True),
        ("http://localhost:3143/", "localhost", 3143, "", True),
        ("https://example.com/pypi/", "example.com", 443, "/pypi", False),
        ("http://[::1]", "::1", 80, "", True),
        ("http://192.0.2.1:1", "192.0.2.1", 1, "", False),
    ],
)
def test_a_url_names_a_server(url: str, host: str, port: int, prefix: str, near: bool) -> None:
    """With the path under which a front proxy has it."""
    server = server_at(url)
    assert (server.host, server.port, server.prefix, server.near) == (host, port, prefix, near)


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:3143", "ftp://example.com", "http://", "http://u:p@example.com", "http://example.com/?a",
     "http://a b", "http://example.com:0", "http://example.com:x", "http://[::1", "http://example.com/#a",
     "http://example.com/\n"],
)  # fmt: skip
def test_what_is_no_url_of_a_server(url: str) -> None:
    """The line says what was expected, repeats nothing (there may be a password in it), and exits with 78."""
    done = run("info", "--url", url)
    line = 'pip-cache-proxy: --url: expected the address of a server such as "http://127.0.0.1:3143"\n'
    assert (done.returncode, done.stdout, done.stderr) == (78, "", line)


class Answers(http.server.BaseHTTPRequestHandler):
    """A server that says what it was told to, and remembers what it was asked."""

    status = 200
    bodies: tuple[bytes, ...] = ()
    headers_out: tuple[tuple[str, str], ...] = ()
    seen: list[dict[str, str]]

    def do_GET(self) -> None:
        """One answer."""
        body = self.bodies[min(len(self.seen), len(self.bodies) - 1)]
        self.seen.append({"path": self.path, **{name.lower(): value for name, value in self.headers.items()}})
        self.send_response(self.status)
        for name, value in self.headers_out:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def answering(
    status: int, *bodies: bytes, headers: tuple[tuple[str, str], ...] = ()
) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """The URL of a server that says this, the last of it again and again, and what it was asked."""
    seen: list[dict[str, str]] = []
    kind = type("Told", (Answers,), {"status": status, "bodies": bodies, "headers_out": headers, "seen": seen})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", seen
        finally:
            server.shutdown()


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    """A file with a token, for its owner alone."""
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    ("status", "body", "code", "said"),
    [
        (401, b'{"because": "a token is needed here"}', 77, "refuses the token (401, a token is needed here);"),
        (403, b'{"because": "no \\u001b[31m"}', 77, "refuses the token (403, no ?[31m);"),
        (403, b"<html>", 77, "refuses the token (403);"),
        (404, b'{"because": "nothing here"}', 69, "answers as no pip-cache-proxy does (404);"),
        (200, b"<html>hello", 69, "answers as no pip-cache-proxy does (200);"),
        (200, b"[]", 69, "answers as no pip-cache-proxy does (200);"),
        (200, b"[" * 100_000, 69, "answers as no pip-cache-proxy does (200);"),
        (200, b'{"dir": 1}', 69, "the answer cannot be understood;"),
        (200, json.dumps(INFO | {"wheels": {"count": "\x1b[2J", "bytes": 1}}).encode(), 69, "cannot be understood;"),
        (421, b'{"because": "this host name is not served here"}', 69, "cannot do it (421, this host name"),
        (503, b'{"because": "the disk is full"}', 69, "cannot do it (503, the disk is full);"),
        (500, b"", 69, "answers as no pip-cache-proxy does (500);"),
        (302, b"", 69, "leads elsewhere (302);"),
    ],
)
def test_other_answers_are_one_line_that_says_what_to_do(
    status: int, body: bytes, code: int, said: str, token_file: Path
) -> None:
    """Nothing of a body but its reason is shown, nothing of the token ever; no redirect is followed with it."""
    with answering(404, b"") as (other, elsewhere):
        where = ("Location", f"{other}/admin/cache/info")
        with answering(status, body, headers=(where,)) as (url, seen):
            done = run("info", "--url", url, "--token-file", str(token_file))
    assert (done.returncode, done.stdout) == (code, "")
    (line,) = done.stderr.splitlines()
    assert said in line
    assert TOKEN not in line
    assert [each["authorization"] for each in seen] == [f"Bearer {TOKEN}"]
    assert elsewhere == []


def test_a_refused_pattern_is_wrong_use(token_file: Path) -> None:
    """In pip's manner: ERROR, and 1."""
    with answering(400, b'{"because": "pattern: expected text"}') as (url, _):
        done = run("list", "x", "--url", url, "--token-file", str(token_file))
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "ERROR: pattern: expected text\n")


def test_the_variable_names_the_server_and_flags_go_before_it(tmp_path: Path, token_file: Path) -> None:
    """PIPCACHEPROXY_URL is asked, also for ``dir``, and is no setting that serve would refuse; a directory that is
    named on the command line is not passed over for it."""
    with answering(200, json.dumps(INFO).encode()) as (url, seen):
        environment = {"PIPCACHEPROXY_URL": f"{url}/sub/", "http_proxy": "http://127.0.0.1:1"}
        done = run("dir", "--token-file", str(token_file), environment=environment)
        assert (done.returncode, done.stdout, done.stderr) == (0, "/c\n", "")
        assert [each["path"] for each in seen] == ["/sub/admin/cache/dir"]
        there = str(tmp_path / "cache")
        done = run("dir", "--cache-dir", there, environment=environment)
        assert (done.returncode, done.stdout) == (0, f"{there}\n")
        assert len(seen) == 1


def test_a_list_comes_in_pages_and_its_filters_go_out(token_file: Path) -> None:
    """All of them through the cursor; one that does not end is given up."""
    page = {"files": [], "cursor": "again"}
    with answering(200, json.dumps(page).encode()) as (url, seen):
        words = ("--kind", "wheel", "--kind", "sdist", "--index", "a&b", "--version", "1")
        done = run("list", "six", *words, "--url", url, "--token-file", str(token_file))
    assert (done.returncode, done.stdout) == (69, "")
    assert "does not end" in done.stderr
    query = "index=a%26b&version=1&kind=wheel&kind=sdist&pattern=six&limit=10000"
    assert [each["path"] for each in seen] == [f"/admin/cache/list?{query}"]


def test_a_list_that_goes_in_a_circle_is_given_up(token_file: Path) -> None:
    """A cursor that leads to itself would fill the memory."""
    page = {"files": [file("a-1-py3-none-any.whl")], "cursor": "again"}
    with answering(200, json.dumps(page).encode()) as (url, seen):
        done = run("list", "--url", url, "--token-file", str(token_file))
    assert (done.returncode, done.stdout, len(seen)) == (69, "", 2)
    assert "does not end" in done.stderr


@pytest.mark.parametrize("strange", STRANGE, ids=str)
@pytest.mark.parametrize("name", ["count", "bytes"])
def test_what_info_counts_is_a_number(name: str, strange: Any) -> None:
    """A file's size too, which is said by the same words."""
    with pytest.raises(TypeError):
        pipwords.info(INFO | {"sdists": {"count": 1, "bytes": 1, name: strange}})


@pytest.mark.parametrize("name", ["count", "directories"])
def test_what_a_removal_counts_is_a_number(name: str) -> None:
    """Nothing else reaches the terminal."""
    answer = {"removed": [], "count": 0, "bytes": 0, "directories": 0, "dry_run": False}
    with pytest.raises(TypeError):
        pipwords.removal({**answer, name: "\x1b[2J"}, None)


def test_pages_of_a_list_become_one(token_file: Path) -> None:
    """Sorted as a whole; as JSON in the server's order and with a cursor that says there is no more."""
    rows = [file(f"{name}-1-py3-none-any.whl") for name in "bca"]
    pages = [json.dumps({"files": [row], "cursor": cursor}).encode() for row, cursor in zip(rows, "xy", strict=False)]
    pages.append(json.dumps({"files": [rows[2]], "cursor": None}).encode())
    asked = ("list", "--token-file", str(token_file), "--url")
    with answering(200, *pages) as (url, seen):
        names = [line[3] for line in run(*asked, url).stdout.splitlines()[2:]]
    assert names == ["a", "b", "c"]
    assert [each["path"].partition("&")[2] for each in seen] == ["", "cursor=x", "cursor=y"]
    with answering(200, *pages) as (url, _):
        assert json.loads(run(*asked, url, "--format", "json").stdout) == {"files": rows, "cursor": None}


def test_nobody_at_the_url(token_file: Path) -> None:
    """69, and the line names the address."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    done = run("info", "--url", f"http://127.0.0.1:{port}", "--token-file", str(token_file))
    assert (done.returncode, done.stdout) == (69, "")
    assert done.stderr.startswith(f"pip-cache-proxy: http://127.0.0.1:{port} cannot be reached (Connection refused);")


def test_a_server_that_says_nothing_is_not_waited_for_for_ever() -> None:
    """And one that hangs up is told from it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = server_at(f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(CannotAsk, match="does not answer"):
            Remote(server, TOKEN, looking=0.2).ask("info", {})
        caller = Remote(server, TOKEN)

        def hang_up() -> None:
            for _ in range(2):
                silent.accept()[0].close()

        accepting = threading.Thread(target=hang_up)
        accepting.start()
        with pytest.raises(CannotAsk, match="hung up"):
            caller.ask("info", {})
        accepting.join()


# --- tokens


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (TOKEN, 0o644, "others may read it, or write to it (mode 0644): chmod 600 it"),
        (TOKEN, 0o620, "others may read it, or write to it (mode 0620): chmod 600 it"),
        ("", 0o600, "expected a secret, it is empty"),
        ("two words", 0o600, "expected a token"),
        ("two\nlines", 0o600, "expected one line"),
        (None, 0, "cannot be read: No such file or directory"),
    ],
)
def test_a_token_file_that_cannot_be_used(tmp_path: Path, content: str | None, mode: int, said: str) -> None:
    """78, before anybody is asked, and nothing of what is in it."""
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    done = run("info", "--url", "http://127.0.0.1:1", "--token-file", str(path))
    assert (done.returncode, done.stdout) == (78, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"pip-cache-proxy: --token-file: {path}")
    assert said in line
    assert not content or content not in line


def test_a_token_comes_through_a_pipe(tmp_path: Path) -> None:
    """As ``--token-file <(a command)`` has it, however slow the command is."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    writer = threading.Thread(target=lambda: pipe.write_text(f"{TOKEN}\n"))
    with answering(200, json.dumps(INFO).encode()) as (url, seen):
        writer.start()
        done = run("dir", "--url", url, "--token-file", str(pipe))
        writer.join()
    assert (done.returncode, done.stdout) == (0, "/c\n")
    assert seen[0]["authorization"] == f"Bearer {TOKEN}"


def test_the_directorys_token_is_for_this_machine_alone(tmp_path: Path) -> None:
    """The file that a server left here is shown to a server here, and to nobody elsewhere; one that is configured
    goes where it is told to."""
    (tmp_path / "cache").mkdir(mode=0o700)
    generated = tmp_path / "cache" / "admin.token"
    generated.write_text("g" * 43 + "\n")
    generated.chmod(0o600)
    there = ("--cache-dir", str(tmp_path / "cache"))
    with answering(200, json.dumps(INFO).encode()) as (url, seen):
        # Nobody holds the directory: whoever listens there is no server of ours.
        assert run("dir", "--url", url, *there).returncode == 77
        assert seen == []
        generated.rename(tmp_path / "token")
        lock = claim(tmp_path / "cache")
        (tmp_path / "token").rename(generated)
        try:
            assert run("dir", "--url", url, *there).returncode == 0
        finally:
            release(lock)
        assert seen.pop()["authorization"] == f"Bearer {'g' * 43}"
        configured = {"PIPCACHEPROXY_ADMIN__TOKEN": "w" * 40, "PIPCACHEPROXY_ADMIN__READ_TOKEN": "r" * 40}
        assert run("dir", "--url", url, *there, environment=configured).returncode == 0
        assert seen.pop()["authorization"] == f"Bearer {'w' * 40}"
        configured.pop("PIPCACHEPROXY_ADMIN__TOKEN")
        assert run("dir", "--url", url, *there, environment=configured).returncode == 0
        assert seen.pop()["authorization"] == f"Bearer {'r' * 40}"
    done = run("dir", "--url", "http://192.0.2.1:1", *there)
    assert (done.returncode, done.stdout) == (77, "")
    assert "http://192.0.2.1:1 wants a token; name a file that holds it with --token-file" in done.stderr


# --- the directory, where nobody or somebody else holds it


def test_a_directory_that_is_not_there_is_an_empty_cache(tmp_path: Path) -> None:
    """And none is made; nor is one that is there and empty filled."""
    there = tmp_path / "cache"
    for _ in range(2):
        words = ("--cache-dir", str(there))
        assert run("list", *words).stdout == "No locally built wheels cached.\n"
        assert "Number of locally built wheels: 0\n" in run("info", *words).stdout
        done = run("purge", *words)
        nothing = "Files removed: 0 (0 bytes)\nDirectories removed: 0\n"
        assert (done.returncode, done.stdout, done.stderr) == (0, nothing, "WARNING: No matching packages\n")
        assert not there.exists() or os.listdir(there) == []
        there.mkdir(exist_ok=True)


@pytest.mark.parametrize("verb", ["info", "list", "purge"])
def test_a_directory_that_is_no_cache(tmp_path: Path, verb: str) -> None:
    """73, and it is left as it is."""
    (tmp_path / "letter").write_text("dear")
    done = run(verb, "--cache-dir", str(tmp_path))
    assert (done.returncode, done.stdout) == (73, "")
    (line,) = done.stderr.splitlines()
    assert "holds files that are not a cache's" in line
    assert os.listdir(tmp_path) == ["letter"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to somebody else")
@pytest.mark.parametrize("verb", ["info", "list", "purge"])
def test_another_users_directory_is_refused(tmp_path: Path, verb: str) -> None:
    """Also when its server runs: where it says it listens, our token must not go."""
    there = tmp_path / "cache"
    lock = claim(there)
    try:
        with published(there, address_for([("127.0.0.1", 1)], None, None, ())):
            os.chown(there, 12345, -1)
            done = run(verb, "--cache-dir", str(there))
    finally:
        release(lock)
    assert (done.returncode, done.stdout) == (73, "")
    assert f"{there} belongs to another user; run this as that user" in done.stderr


def test_a_bad_setting_is_named(tmp_path: Path) -> None:
    """78, as everywhere."""
    config = tmp_path / "config.toml"
    config.write_text("[cache]\nmax_size = 'much'\n")
    done = run("info", "--config", str(config))
    assert done.returncode == 78
    assert done.stderr.startswith("pip-cache-proxy: cache.max_size: ")


@pytest.mark.parametrize("named", [True, False])
def test_a_process_that_does_not_listen(
    named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """75 after a while, with its number if a full disk took that; an address that another one left is not believed."""
    there = tmp_path / "cache"
    lock = claim(there)
    if not named:
        os.truncate(there / "lock", 0)
    try:
        with answering(200, json.dumps(INFO).encode()) as (url, seen):
            port = int(url.rpartition(":")[2])
            with published(there, address_for([("127.0.0.1", port)], None, None, ())):
                path = there / "address"
                path.write_text(path.read_text().replace(f'"pid": {os.getpid()}', '"pid": 1'))
                monkeypatch.setattr(cachecommand, "PATIENCE", 0.3)
                assert cachecommand.main(["info", "--cache-dir", str(there)]) == 75
    finally:
        release(lock)
    assert seen == []
    owner = f"process {os.getpid()}" if named else "another process"
    assert f"cache.dir: {there} is in use by {owner}, which does not answer" in capsys.readouterr().err


def test_a_server_that_is_about_to_listen_is_waited_for(tmp_path: Path) -> None:
    """Whoever holds the directory and has not said where yet is asked once it does."""
    there = tmp_path / "cache"
    lock = claim(there)
    (there / "admin.token").write_text("g" * 43 + "\n")
    (there / "admin.token").chmod(0o600)
    words = [sys.executable, "-m", "proxy", "cache", "info", "--cache-dir", str(there)]
    try:
        with (
            answering(200, json.dumps(INFO).encode()) as (url, seen),
            subprocess.Popen(words, cwd=ROOT, env=clean_environment(), stdout=subprocess.PIPE, text=True) as done,
        ):
            port = int(url.rpartition(":")[2])
            with published(there, address_for([("127.0.0.1", port)], None, None, ())):
                said, _ = done.communicate(timeout=60)
    finally:
        release(lock)
    assert (done.returncode, said.splitlines()) == (0, pipwords.info(INFO))
    assert [each["host"] for each in seen] == [f"127.0.0.1:{port}"]


def test_two_commands_at_once_wait_for_each_other(tmp_path: Path) -> None:
    """The directory is taken by one after the other; none of them fails."""
    there = tmp_path / "cache"
    release(claim(there))
    words = [sys.executable, "-m", "proxy", "cache", "purge", "--cache-dir", str(there)]
    running = [subprocess.Popen(words, cwd=ROOT, env=clean_environment(), stdout=subprocess.PIPE) for _ in range(3)]
    said = [each.communicate(timeout=60)[0] for each in running]
    assert [each.returncode for each in running] == [0, 0, 0]
    assert said == [b"Files removed: 0 (0 bytes)\nDirectories removed: 0\n"] * 3


def test_the_certificate_in_the_address_is_the_only_one(tmp_path: Path) -> None:
    """A server with another one hears no token, whoever signed it."""
    ours, other = pair(tmp_path / "ours"), pair(tmp_path / "other")
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(other.certificate, other.key)
    heard: list[bytes] = []

    def serve(listening: socket.socket) -> None:
        with context.wrap_socket(listening.accept()[0], server_side=True) as connection:
            heard.append(connection.recv(1))

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,), daemon=True)
        thread.start()
        address = address_for([listening.getsockname()], None, ours.certificate, ())
        with pytest.raises(CannotAsk, match="shows another certificate than its tls_cert"):
            Remote(server_of(address), TOKEN).ask("info", {})
        thread.join(20)
    assert heard == [b""]


def test_a_reader_that_has_enough_is_no_mistake(token_file: Path) -> None:
    """``| head``: nothing on standard error."""
    rows = [file(f"six-{number}-py3-none-any.whl") for number in range(5_000)]
    with answering(200, json.dumps({"files": rows, "cursor": None}).encode()) as (url, _):
        words = f'"{sys.executable}" -m proxy cache list --url {url} --token-file "{token_file}" | head -n 3'
        done = subprocess.run(
            ["/bin/sh", "-c", words], cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "Cache contents:\n\n - six-0-py3-none-any.whl (13 kB)\n"
