"""Secrets from files, the environment and netrc: what is read, when it is read again, and what is never said."""

from __future__ import annotations

import base64
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.calls import Site
from proxy.config import SettingError, load
from proxy.credentials import (
    LARGEST,
    Basic,
    Bearer,
    Credentials,
    Kept,
    Netrc,
    Word,
    netrc_path,
    read_secret,
    read_token,
    usable,
)
from proxy.errors import UpstreamFailed

CANARY = "hunter2-canary"
INDEX = '[[index]]\nname = "a"\nurl = "http://example.com/simple/"\n'


def encoded(pair: str) -> str:
    return "Basic " + base64.b64encode(pair.encode()).decode()


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str | bytes], Path]:
    """Writes a file with a secret, each time another inode as a careful rotation does, and says where."""

    def write(content: str | bytes) -> Path:
        new = tmp_path / "new"
        new.write_bytes(content if isinstance(content, bytes) else content.encode())
        return new.replace(tmp_path / "secret")

    return write


@pytest.mark.parametrize(
    ("content", "secret"),
    [
        ("one\n", "one"),
        ("one\r\n", "one"),
        ("one", "one"),
        ("a b:c", "a b:c"),
        ("pässwörd\n", "pässwörd"),
    ],
)
def test_a_file_holds_one_line(written: Callable[[str], Path], content: str, secret: str) -> None:
    """The line end that editors add is not a part of it."""
    assert read_secret(written(content)) == secret


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a secret, it is empty"),
        (b"\n", "expected a secret, it is empty"),
        (b"hunter2-canary\r\nX: y\n", "expected one line"),
        (b"hunter2-canary\0", "expected one line"),
        (b"hunter2-canary\x7f", "expected one line"),
        (b" hunter2-canary", "expected one line"),
        (b"hunter2-canary\xff", "expected text in UTF-8"),
        (b"hunter2-canary" * LARGEST, "expected a file with nothing but a secret"),
    ],
)
def test_what_is_no_secret_is_refused_at_start(
    written: Callable[[bytes], Path], tmp_path: Path, content: bytes, message: str
) -> None:
    """A file whose content cannot be sent is found when the settings are read; nothing of it is repeated."""
    path = written(content)
    for key, other in (("password_file", 'username = "reader"\n'), ("token_file", "")):
        config = tmp_path / "config.toml"
        config.write_text(f'{INDEX}{other}{key} = "{path}"\n')
        with pytest.raises(SettingError) as caught:
            load(config)
        assert caught.value.key == f"index[0].{key}"
        assert caught.value.message.startswith(message)
        assert CANARY not in str(caught.value)


@pytest.mark.parametrize("token", ["two words", "tökén"])
def test_a_token_is_ascii_without_spaces(written: Callable[[str], Path], token: str) -> None:
    """It stands in the field as it is (RFC 6750), unlike a password."""
    assert read_secret(written(token)) == token
    with pytest.raises(ValueError, match="expected a token"):
        read_token(written(token))


def test_a_file_that_is_not_there_or_never_ends(tmp_path: Path) -> None:
    """A pipe that nobody writes to is not waited for."""
    os.mkfifo(tmp_path / "pipe")
    for path, message in ((tmp_path / "none", "readable file"), (tmp_path / "pipe", "empty"), (tmp_path, "readable")):
        with pytest.raises(ValueError, match=message):
            read_secret(path)


def test_a_rotated_secret_is_read_again(written: Callable[[str], Path], caplog: pytest.LogCaptureFixture) -> None:
    """A new token counts at once; while the file is broken the last good one does, and the log names the file once."""
    credentials = Bearer(Kept(written("one\n"), read_token))
    assert credentials.authorization() == "Bearer one"
    path = written("two\n")
    assert credentials.authorization() == "Bearer two"
    path.unlink()
    assert [credentials.authorization() for _ in range(3)] == ["Bearer two"] * 3
    written(f"{CANARY}\nmore\n")
    assert [credentials.authorization() for _ in range(3)] == ["Bearer two"] * 3
    assert [str(path) in message for message in caplog.messages] == [True, True]
    assert CANARY not in caplog.text
    written("three")
    assert credentials.authorization() == "Bearer three"


def test_written_over_in_place(tmp_path: Path) -> None:
    """The same file with another content of the same length."""
    path = tmp_path / "secret"
    path.write_text("one")
    kept = Kept(path, read_secret)
    assert kept.reveal() == "one"
    path.write_text("two")
    os.utime(path, ns=(1, 1))
    assert kept.reveal() == "two"


def test_a_change_of_its_status_is_a_change(tmp_path: Path) -> None:
    """A new secret that we may read only after a chown is not overlooked: of all times only ctime tells of that."""
    path = tmp_path / "secret"
    path.write_text("one")
    before = path.stat()
    kept = Kept(path, read_secret)
    assert kept.reveal() == "one"
    path.write_text("two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert kept.reveal() == "two"


def test_no_secret_at_all_is_a_failure(tmp_path: Path) -> None:
    """An index that wants credentials is never asked without them."""
    with pytest.raises(UpstreamFailed) as caught:
        Basic("reader", Kept(tmp_path / "none", read_secret)).authorization()
    assert (caught.value.because, caught.value.status) == ("the credentials of the index cannot be read", 502)


def test_basic_is_utf8() -> None:
    """RFC 7617 §2.1."""
    assert Basic("reäder", Word("pä:ss")).authorization() == encoded("reäder:pä:ss")


@pytest.fixture
def netrc(tmp_path: Path) -> Callable[..., Netrc]:
    """What a netrc file with that content says of example.com, or of another host."""

    def of(content: str | bytes, host: str = "example.com") -> Netrc:
        path = tmp_path / "netrc"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return Netrc(host, path)

    return of


@pytest.mark.parametrize(
    ("content", "pair"),
    [
        ("machine example.com login reader password secret\n", "reader:secret"),
        ("machine EXAMPLE.com\n  login reader\n  password secret\n", "reader:secret"),
        ("machine example.org login x password y\nmachine example.com login reader password secret", "reader:secret"),
        ("machine example.org login x password y\n", None),
        ("machine sub.example.com login x password y\n", None),
        ("default login x password y\n", None),
        ("machine example.com login x\n", None),
        ("machine example.com login a:b password y\n", None),
        ("", None),
    ],
)
def test_netrc_speaks_for_its_host_alone(netrc: Callable[..., Netrc], content: str, pair: str | None) -> None:
    """An entry for the index's own host name, never the default one."""
    credentials = netrc(content)
    assert credentials.authorization() == (None if pair is None else encoded(pair))
    assert credentials.described() == ("none" if pair is None else "netrc")


def test_a_host_named_default_gets_no_default_entry(netrc: Callable[..., Netrc]) -> None:
    """The stdlib keeps that entry under this name."""
    assert netrc("default login x password y\n", "default").authorization() is None


@pytest.mark.parametrize("content", [f"machine example.com {CANARY} x\n", f"{CANARY}\n", b"machine \xff"])
def test_a_netrc_that_cannot_be_read_is_said_once(
    netrc: Callable[..., Netrc], caplog: pytest.LogCaptureFixture, tmp_path: Path, content: str | bytes
) -> None:
    """One line that names the file and nothing in it; requests go without credentials."""
    credentials = netrc(content)
    assert [credentials.authorization(), credentials.authorization()] == [None, None]
    assert caplog.messages == [f"{tmp_path / 'netrc'}: not a netrc file that can be read"]
    assert CANARY not in caplog.text


def test_a_netrc_that_changes_is_read_again(netrc: Callable[..., Netrc], tmp_path: Path) -> None:
    """Also when it appears, and when it goes."""
    path = tmp_path / "netrc"
    credentials = Netrc("example.com", path)
    assert credentials.authorization() is None
    netrc("machine example.com login a password b\n")
    assert credentials.authorization() == encoded("a:b")
    netrc("machine example.com login a password longer\n")
    assert credentials.authorization() == encoded("a:longer")
    path.unlink()
    assert credentials.authorization() is None


def test_where_netrc_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """$NETRC, else the one in this user's home; a file that is none says nothing."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert netrc_path({}) == netrc_path({"NETRC": ""}) == tmp_path / ".netrc"
    assert netrc_path({"NETRC": "/x/y"}) == Path("/x/y")
    assert Netrc("example.com", Path(os.devnull)).authorization() is None
    assert Netrc("example.com", None).authorization() is None


def test_nothing_shows_a_secret(written: Callable[[str], Path], netrc: Callable[..., Netrc]) -> None:
    """No repr, no description and no error holds a password or its encoding."""
    path = written(CANARY)
    known: list[Credentials] = [
        Basic("reader", Word(CANARY)),
        Basic("reader", Kept(path, read_secret)),
        Bearer(Word(CANARY)),
        Bearer(Kept(path, read_token)),
        netrc(f"machine example.com login reader password {CANARY}"),
    ]
    for each in known:
        field = each.authorization()
        assert field is not None
        shown = f"{each!r} {each} {each.described()} {Site('a', 'http://example.com/', credentials=each)!r}"
        assert CANARY not in shown
        assert field.split(" ")[1] not in shown
    assert [each.described() for each in known] == ["Basic as reader"] * 2 + ["bearer token"] * 2 + ["netrc"]
    with pytest.raises(ValueError, match="expected one line") as caught:
        usable(f"{CANARY}\0")
    assert CANARY not in str(caught.value)


def test_settings_become_credentials(
    written: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each way to configure them; what the environment says goes before a file, netrc comes last."""
    caplog.set_level(logging.DEBUG)
    path = written("from-file\n")
    config = tmp_path / "config.toml"
    (tmp_path / "netrc").write_text("machine example.com login n password from-netrc\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))

    def field(more: str) -> str | None:
        config.write_text(INDEX + more)
        (index,) = load(config).index
        assert "from-" not in repr(index)
        return index.credentials().authorization()

    basic, bearer = f'username = "r"\npassword_file = "{path}"\n', f'token_file = "{path}"\n'
    assert field("") == encoded("n:from-netrc")
    assert field(basic) == encoded("r:from-file")
    assert field(bearer) == "Bearer from-file"
    monkeypatch.setenv("PIPCACHEPROXY_INDEX_A_TOKEN", "from-environment")
    assert field(bearer) == "Bearer from-environment"
    monkeypatch.delenv("PIPCACHEPROXY_INDEX_A_TOKEN")
    monkeypatch.setenv("PIPCACHEPROXY_INDEX_A_PASSWORD", "from-environment")
    assert field(basic) == encoded("r:from-environment")
    assert "from-" not in caplog.text
