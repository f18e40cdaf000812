"""What a mount answered is called: store keys and file names.

``rest`` is that of ``RawTarget`` without its query, which may be a secret (a signature, a token): in its place stands
a hash of it (``place_of``).
"""

from __future__ import annotations

import hashlib

from proxy.core.urls import file_name, usable_name, without_query


def place_of(rest: str) -> str:
    """The ``rest`` of a RawTarget as keys have it."""
    path, mark, query = rest.partition("?")
    return f"{path}?{hashlib.sha256(query.encode()).hexdigest()[:32]}" if mark else path


def tag_of_mount(mount: str) -> str:
    """The store tag under which everything of a mount lies."""
    return f"{mount}/"


def raw_key(mount: str, rest: str, variant: str) -> str:
    """The store key of one variant of a URL, in the room "mounts"; ``variant`` holds no ``|``."""
    return f"raw|{mount}|{rest}|{variant}"


def variants_key(mount: str, rest: str) -> str:
    """The store key of what tells the variants of a URL, in the room "responses"."""
    return f"variants|{mount}|{rest}"


def rest_of(key: str) -> str:
    """The ``rest`` in a ``raw_key``."""
    return key.rpartition("|")[0].partition("|")[2].partition("|")[2]


def raw_name(rest: str) -> str | None:
    """The decoded last segment of the path; None where there is none: the mount itself, or what ends in a slash."""
    return file_name(without_query(rest)) or None


def body_name(rest: str) -> str:
    """What the body is called on disk: the same, where a file may be called that."""
    name = raw_name(rest)
    return name if name is not None and usable_name(name) else "body"
