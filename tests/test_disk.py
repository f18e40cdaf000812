"""Rows and names: no pickle either way, nothing that leads out of a room, nothing undecodable served."""

from __future__ import annotations

import contextlib
import pickle
import string
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.bodies import is_filename, new_filename
from proxy.core.messages import Entry, Head
from proxy.disk import MODE_RAW, BytesDisk, value_of
from proxy.errors import StoreFailed
from proxy.memory import ABSENT, FileRow, Table
from proxy.store import Row, Store, dump_entry, load_entry
from tests.keeping import TAG, body_of, entry_of, files_in, keep, open_store, query

PLANT = (
    "INSERT INTO Cache (key, raw, store_time, access_time, tag, size, mode, filename, value)"
    " VALUES (?, ?, 1, 1, ?, ?, ?, ?, ?)"
)
RAW, BINARY, TEXT, PICKLE = 1, 2, 3, 4


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


def sealed(value: bytes) -> bytes:
    """A value as it lies in a row."""
    return zlib.crc32(value).to_bytes(4, "big") + value


@pytest.mark.asyncio
@pytest.mark.parametrize("room", ["wheels", "responses"])
async def test_planted_pickles_are_never_loaded(tmp_path: Path, room: str) -> None:
    """As key, as value, inline and in a file: no payload runs, the rows are dropped and their files go."""
    store = await open_store(tmp_path / "cache")
    await store.close()
    where, canary = tmp_path / "cache" / room, tmp_path / "canary"
    payload = pickle.dumps(Payload(canary))
    (where / "aa/0123456789abcdef").mkdir(parents=True)
    (where / "aa/0123456789abcdef/x.val").write_bytes(payload)
    file = "aa/0123456789abcdef/x.val"
    query(where, PLANT, "inline", 1, TAG, len(payload), PICKLE, None, payload)
    query(where, PLANT, "file", 1, TAG, len(payload), PICKLE, file, None)
    query(where, PLANT, payload, 0, TAG, 1, RAW, None, sealed(b"x"))
    query(where, PLANT, "binary", 1, TAG, len(payload), BINARY, file, None)
    query(where, PLANT, "text", 1, TAG, 1, TEXT, file, "x")
    query(where, PLANT, "number", 1, TAG, 1, RAW, None, 1)
    limits: dict[str, Any] = {"max_size": 10**6, "responses_max_size": 10**6, "mounts_max_size": 10**6}
    store = await Store.open(tmp_path / "cache", **limits, min_free=0)
    for key in ("inline", "file", "binary", "text", "number"):
        assert await store.read(key) is None
        assert await store.entry("wheels", key) is None
        assert await store.stored("responses", key) is None
    assert await store.find("wheels", TAG) == await store.find("responses", TAG) == []
    await store.swept()
    assert query(where, "SELECT count(*) FROM Cache") == [(0,)]
    assert files_in(where) == {}
    assert store.stats().wheels.bytes == store.stats().responses.bytes == 0
    await store.close()
    assert not canary.exists()


@pytest.mark.parametrize("value", ["text", 1, 1.5, None, [], {"a": 1}, bytearray(b"x"), memoryview(b"x")])
def test_the_disk_refuses_what_is_no_bytes(tmp_path: Path, value: object) -> None:
    """Where diskcache would pickle, or write text, there is an error."""
    disk = BytesDisk(str(tmp_path))
    with pytest.raises(StoreFailed):
        disk.store(value, False)
    with pytest.raises(StoreFailed):
        disk.store(b"bytes", True)


@pytest.mark.parametrize("key", [b"bytes", 1, 1.5, None, ("a", 1)])
def test_the_disk_refuses_keys_that_are_no_text(tmp_path: Path, key: object) -> None:
    """Both ways: a key that is not text is neither written nor read."""
    disk = BytesDisk(str(tmp_path))
    with pytest.raises(StoreFailed):
        disk.put(key)
    with pytest.raises(StoreFailed):
        disk.get(key, True)
    with pytest.raises(StoreFailed):
        disk.get("text", False)


def test_the_disk_makes_no_files(tmp_path: Path) -> None:
    """diskcache's own names, which it may reuse, are never made."""
    with pytest.raises(StoreFailed):
        BytesDisk(str(tmp_path)).filename("key", b"value")


@given(st.binary(max_size=100), st.integers(0, 99), st.integers(1, 255))
def test_a_flipped_byte_is_noticed(value: bytes, place: int, mask: int) -> None:
    """A row's value comes back as it was written or not at all."""
    disk = BytesDisk("/nowhere")
    size, mode, filename, data = disk.store(value, False, "key")
    assert (size, value_of("key", mode, filename, data)) == (len(value), value)
    damaged = bytearray(data)
    damaged[place % len(data)] ^= mask
    with pytest.raises(StoreFailed):
        value_of("key", mode, filename, bytes(damaged))


def test_another_rows_value_is_noticed() -> None:
    """A flipped bit in an index leads to another row, which is sound: it is not taken for the one asked for."""
    _, mode, filename, data = BytesDisk("/nowhere").store(b"value", False, "key")
    with pytest.raises(StoreFailed):
        value_of("kez", mode, filename, data)


def test_what_version_0_1_0_wrote_is_read() -> None:
    """Its checksum is of the value alone."""
    assert value_of("key", MODE_RAW, None, zlib.crc32(b"value").to_bytes(4, "big") + b"value") == b"value"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "filename",
    [
        "../../secret",
        "/etc/passwd",
        "aa/0123456789abcdef/../../../secret",
        "aa/0123456789abcdef/.hidden",
        "x",
    ],
)
async def test_no_row_leads_out_of_its_room(tmp_path: Path, filename: str) -> None:
    """A planted filename is neither opened nor unlinked, by readers, by the sweep, or by removal."""
    store = await open_store(tmp_path / "cache")
    await store.close()
    (tmp_path / "secret").write_bytes(b"secret")
    room = tmp_path / "cache/wheels"
    head = dump_entry(replace(entry_of("six", b"secret"), body=f"wheels/{filename}"))
    query(room, PLANT, "six", 1, TAG, 6, BINARY, filename, sealed(head))
    query(room, PLANT, "seven", 1, TAG, 6, BINARY, filename, sealed(head))
    query(room, PLANT, "eight", 1, TAG, 6, BINARY, filename, sealed(head))
    store = await open_store(tmp_path / "cache")
    assert await store.stored("wheels", "six") is None
    await store.remove("wheels", ["seven"])
    assert query(room, "SELECT count(*) FROM Cache") == [(0,)]
    assert (tmp_path / "secret").read_bytes() == b"secret"
    await store.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("damage", ["garbage", "another key", "another body", "another room"])
async def test_a_head_that_is_not_its_row_s_is_dropped(tmp_path: Path, damage: str) -> None:
    """Undecodable, swapped, or naming another file: absent, and the row and its file go."""
    store = await open_store(tmp_path / "cache")
    entry = await keep(store, "six", b"body")
    await store.close()
    head = {
        "garbage": b'["entry/1",12',
        "another key": dump_entry(replace(entry, key="seven")),
        "another body": dump_entry(replace(entry, body="wheels/aa/0123456789abcdef/x.whl")),
        "another room": dump_entry(replace(entry, body=entry.body.replace("wheels", "responses"))),
    }[damage]
    query(tmp_path / "cache/wheels", "UPDATE Cache SET value = ?", sealed(head))
    store = await open_store(tmp_path / "cache")
    assert await store.find("wheels", TAG) == []
    assert await store.stored("wheels", "six") is None
    assert store.stats().wheels.count == 0
    assert files_in(tmp_path / "cache/wheels") == {}
    await keep(store, "six", b"again")
    assert await body_of(store, "six") == b"again"
    await store.close()


# --- names

GOOD = ["six-1.16.0-py2.py3-none-any.whl", "a", "x" * 255, "große.tar.gz", "a b", "a..b", "%2F", "~", "-rf"]
BAD = [
    "",
    ".",
    "..",
    ".six",
    "a/b",
    "/",
    "a\\b",
    "a\0",
    "a\n",
    "\x7f",
    "x" * 256,
    "ä" * 128,
    "\ud800",
    "\u202e.whl",
]


@pytest.mark.parametrize("name", GOOD)
def test_plain_names_are_kept_as_they_are(name: str) -> None:
    """The last part of the path is the real name, the rest is random."""
    first, second = new_filename(name), new_filename(name)
    assert first != second
    assert is_filename(first)
    assert first.split("/", 2)[2] == name


@pytest.mark.parametrize("name", BAD)
def test_other_names_are_refused(name: str) -> None:
    """Separators, control and direction characters, leading dots, nothing, too long."""
    with pytest.raises(StoreFailed):
        new_filename(name)


@given(st.text(max_size=300))
def test_a_name_is_refused_or_stays_in_its_directory(name: str) -> None:
    """No text leads anywhere else."""
    try:
        filename = new_filename(name)
    except StoreFailed:
        return
    assert is_filename(filename)
    assert len(Path(filename).parts) == 3
    assert ".." not in Path(filename).parts


# --- entries as bytes

TEXT_ = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
OCTETS = st.binary(max_size=20).map(lambda octets: octets.decode("utf-8", "surrogateescape"))
TIMES = st.floats(allow_nan=False, allow_infinity=False)
HEADS = st.builds(
    Head,
    st.integers(100, 599),
    st.lists(st.tuples(st.text(string.ascii_letters, min_size=1), OCTETS), max_size=5).map(tuple),
    TIMES,
    TIMES,
)
ENTRIES = st.builds(
    Entry, TEXT_, TEXT_, TEXT_, HEADS, TEXT_, st.integers(0, 2**62), TEXT_, verified=st.booleans()
)


@given(ENTRIES)
def test_entries_come_back_as_they_were(entry: Entry) -> None:
    """Also with header values of any octets (RFC 9110 obs-text), which arrive as lone surrogates."""
    assert load_entry(dump_entry(entry)) == entry


@given(ENTRIES, st.integers(0, 2**16), st.integers(0, 255))
def test_damaged_entries_raise_only_value_error(entry: Entry, place: int, octet: int) -> None:
    """Whatever one byte becomes: an entry, or ValueError."""
    data = bytearray(dump_entry(entry))
    data[place % len(data)] = octet
    with contextlib.suppress(ValueError):
        assert isinstance(load_entry(bytes(data)), Entry)
    with pytest.raises(ValueError, match=r"."):
        load_entry(bytes(data[:-1]))


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b'["entry/1",]', b'["entry/1",' + b"1," * 10 + b"1]"])
def test_other_json_is_no_entry(data: bytes) -> None:
    """What is not one of ours raises ValueError."""
    with pytest.raises(ValueError, match=r"."):
        load_entry(data)


# --- the table in memory


@given(st.lists(st.tuples(st.integers(0, 9), st.none() | st.integers(-1, 3000))))
def test_the_table_is_bounded_and_never_wrong(changes: list[tuple[int, int | None]]) -> None:
    """Whatever it still holds is the last value, and its bytes are counted to the end."""
    table, last, absent = Table(16_000), dict[str, bytes | FileRow | None](), set[str]()
    for number, size in changes:
        key, gone = f"key{number}", size == -1
        value = None if size is None or gone else (b"x" * size if number % 2 else FileRow("x", size, b"x" * size))
        table.apply("wheels", [(key, ABSENT if gone else value)])
        last[key] = value
        absent = absent | {key} if gone else absent - {key}
        assert table.bytes <= 16_000
        assert absent == {each for each in last if table.lacks("wheels", each)}
        assert all(item is None or item.value == last[k] for k in last for item in [table.get("wheels", k)])
    table.apply("wheels", [(key, None) for key in last])
    assert (len(table), table.bytes) == (0, 0)


@pytest.mark.asyncio
async def test_rooms_do_not_share_keys(tmp_path: Path) -> None:
    """One key may be in both rooms, in memory and on disk."""
    store = await open_store(tmp_path / "cache")
    await store.write([Row("six", b"page", TAG)])
    await keep(store, "six", b"wheel")
    assert store.peek("six") == b"page"
    assert await body_of(store, "six") == b"wheel"
    await store.remove("wheels", ["six"])
    assert store.peek("six") == b"page"
    await store.close()
