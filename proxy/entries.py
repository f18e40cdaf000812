"""An Entry as bytes, and back: the only form in which a head lies on disk."""

from __future__ import annotations

from typing import Any

import orjson

from proxy.core.messages import Entry, Head

# Every dumped entry begins with these bytes, so a head is told from a page's body without parsing either.
MARK = b'["entry/1",'


def dump_entry(entry: Entry) -> bytes:
    """The entry as one JSON array. Raises ValueError when a text in it cannot be written as UTF-8."""
    head = entry.head
    headers = [(_escape(name), _escape(value)) for name, value in head.headers]
    try:
        return orjson.dumps(
            (
                *("entry/1", entry.key, entry.tag, entry.url, entry.body, entry.size, entry.sha256),
                *(entry.verified, head.status, head.asked_at, head.received_at, headers),
            )
        )
    except TypeError as error:  # orjson's own error is a TypeError: lone surrogates, integers above 64 bits
        raise ValueError("the entry cannot be written as JSON") from error


def load_entry(data: bytes) -> Entry:
    """The entry that `dump_entry` wrote. Raises ValueError for anything else, whatever it is."""
    fields = _fields(data)
    _, key, tag, url, body, size, sha256, verified, status, asked_at, received_at, headers = fields
    if not all(isinstance(text, str) for text in (key, tag, url, body, sha256)):
        raise ValueError("an entry's names are text")
    if type(size) is not int or size < 0 or type(status) is not int or type(verified) is not bool:
        raise ValueError("an entry's size and status are whole numbers")
    if type(asked_at) is not float or type(received_at) is not float or type(headers) is not list:
        raise ValueError("an entry's times are numbers, its headers a list")
    head = Head(status, tuple(_pair(item) for item in headers), asked_at, received_at)
    return Entry(key, tag, url, head, body, size, sha256, verified)


def facts_of(data: bytes, key: bytes) -> tuple[str, str]:
    """URL and sha256 of what `dump_entry` wrote, if it is of that key, without reading all of it. Raises ValueError."""
    # ["entry/1","<key>","<tag>","<url>","<body>",<size>,"<sha256>",...
    words = data.split(b'"', 12)
    if len(words) == 13 and data.startswith(MARK) and data.find(b"\\", 0, -len(words[12])) < 0:
        own, url, sha256 = words[3], words[7].decode(), words[11].decode()
    else:
        _, name, _, url, _, _, sha256, *_ = _fields(data)
        if not (isinstance(name, str) and isinstance(url, str) and isinstance(sha256, str)):
            raise ValueError("an entry's names are text")
        own = name.encode()
    if own != key:
        raise ValueError("another key's entry")
    return url, sha256


def _fields(data: bytes) -> list[Any]:
    if not data.startswith(MARK):
        raise ValueError("not an entry")
    fields: list[Any] = orjson.loads(data)
    if len(fields) != 12:
        raise ValueError("an entry has twelve fields")
    return fields


def _pair(item: object) -> tuple[str, str]:
    match item:
        case [str(name), str(value)]:
            return _unescape(name), _unescape(value)
    raise ValueError("a header is a name and a value")


def _escape(text: str) -> str:
    # RFC 9110 §5.5 lets field values hold any octet above 0x7F (obs-text); HTTP parsers hand such octets on
    # as lone surrogates, which JSON cannot carry. Their UTF-8 octets spelled as Latin-1 can be carried.
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("latin-1")


def _unescape(text: str) -> str:
    return text if text.isascii() else text.encode("latin-1").decode("utf-8", "surrogateescape")
