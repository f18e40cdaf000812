"""What the tests of the store share: entries made of bodies, and looks at the directory from outside."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from pathlib import Path
from typing import Any

from proxy.core.messages import Entry, Head
from proxy.directory import RoomName
from proxy.store import Store

TAG = "default/six"
NAME = "six-1.16.0-py2.py3-none-any.whl"


def entry_of(key: str, body: bytes, *, tag: str = TAG, etag: str = '"1"') -> Entry:
    """The entry of a body that was just received."""
    head = Head(200, (("Content-Type", "application/octet-stream"), ("ETag", etag)), 1.0, 2.0)
    url = "https://files.example.com/six.whl"
    return Entry(key, tag, url, head, "", len(body), hashlib.sha256(body).hexdigest(), True)


async def open_store(directory: Path, **options: Any) -> Store:
    """A swept store with roomy limits, unless told otherwise."""
    options = {"max_size": 10**8, "responses_max_size": 10**8, "mounts_max_size": 10**8, "min_free": 0, **options}
    store = await Store.open(directory, **options)
    await store.swept()
    return store


async def keep(
    store: Store,
    key: str,
    body: bytes,
    *,
    room: RoomName = "wheels",
    tag: str = TAG,
    name: str = NAME,
    since: int | None = None,
) -> Entry:
    """Spool and adopt one body."""
    spool = await store.spool()
    try:
        os.write(spool.fd, body)
        return await store.adopt(room, spool, entry_of(key, body, tag=tag), name, since=since)
    finally:
        await store.discard(spool)


async def body_of(store: Store, key: str, room: RoomName = "wheels") -> bytes | None:
    """The stored body, None when there is none."""
    stored = await store.stored(room, key)
    if stored is None:
        return None
    try:
        return stored.handle.read()
    finally:
        stored.close()


def files_in(room: Path) -> dict[str, int]:
    """Size by path below the room, of everything but the database."""
    found = {str(path.relative_to(room)): path.stat().st_size for path in room.rglob("*") if path.is_file()}
    return {name: size for name, size in found.items() if not name.startswith("cache.db")}


def query(room: Path, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """Ask or change a room's database from outside, as a person with a tool would."""
    connection = sqlite3.connect(room / "cache.db", timeout=10)
    try:
        with connection:
            return connection.execute(statement, values).fetchall()
    finally:
        connection.close()
