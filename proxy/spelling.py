"""How settings may be spelled: ``"20GB"``, ``"1.5s"``, hosts, URLs. Text in, a value or ValueError out.

Decimal and binary prefixes mean what IEC 80000-13 says: 1 GB is 10^9 bytes, 1 GiB is 2^30. Messages say what
was expected and never repeat the value: it may be an address with a password, pasted into the wrong key.
"""

from __future__ import annotations

import json
import os
import re
from decimal import Decimal
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

SIZES = {
    "TiB": 2**40,
    "TB": 10**12,
    "GiB": 2**30,
    "GB": 10**9,
    "MiB": 2**20,
    "MB": 10**6,
    "KiB": 2**10,
    "kB": 10**3,
    "B": 1,
}
# In milliseconds, so that all are whole.
DURATIONS = {"w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}

# Beyond these a number is a slip of the keyboard: 1 EB exceeds every disk and comes near SQLite's integers,
# and ten years outlive every cached page.
LARGEST = 10**18
LONGEST = 3_653 * 86_400.0

EXPECTED_SIZE = 'expected a size such as "20GB" or "64MiB", or a number of bytes'
EXPECTED_DURATION = 'expected a duration such as "500ms", "30s", "10m" or "1d", or a number of seconds'

_NUMBER_AND_UNIT = re.compile(r"\s*([0-9]{1,20}(?:\.[0-9]{1,20})?)\s*([A-Za-z]*)\s*", re.ASCII)


def parse_size(value: object) -> int:
    """Bytes, from text or a whole number of bytes. Refuses what is negative or no whole number of bytes."""
    if isinstance(value, str) and (match := _NUMBER_AND_UNIT.fullmatch(value)):
        factors = {name.lower(): factor for name, factor in SIZES.items()}
        count = Decimal(match[1]) * factors.get(match[2].lower() or "b", 0)
        # An unknown unit makes nothing of something.
        value = int(count) if count == int(count) and (count or not float(match[1])) else None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LARGEST:
        raise ValueError(EXPECTED_SIZE)
    return value


def parse_duration(value: object) -> float:
    """Seconds, from text or a number of seconds. Refuses what is negative or longer than ten years."""
    if isinstance(value, str) and (match := _NUMBER_AND_UNIT.fullmatch(value)):
        factor = DURATIONS.get(match[2] or "s")
        value = None if factor is None else float(Decimal(match[1]) * factor / 1000)
    # The comparison is false for NaN, too.
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= LONGEST:
        raise ValueError(EXPECTED_DURATION)
    return float(value)


def show_size(count: int) -> str:
    """The shortest spelling that ``parse_size`` reads back as the same number of bytes."""
    spellings = [f"{count // factor}{name}" for name, factor in SIZES.items() if count % factor == 0]
    return min(spellings, key=len) if count else "0B"


def show_duration(seconds: float) -> str:
    """The shortest spelling in whole units that ``parse_duration`` reads back, to the millisecond."""
    count = round(seconds * 1000)
    spellings = [f"{count // factor}{name}" for name, factor in DURATIONS.items() if count % factor == 0]
    return min(spellings, key=len) if count else "0s"


def parse_count(value: object) -> int:
    """A whole number from 1 to 1,000,000: connections, waiters."""
    return _whole(value, 1, 1_000_000, "expected a whole number from 1 to 1000000")


def parse_port(value: object) -> int:
    """A TCP port; 0 lets the system choose a free one."""
    return _whole(value, 0, 65_535, "expected a port from 0 to 65535 (0 takes a free one)")


def _whole(value: object, least: int, most: int, expected: str) -> int:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value, re.ASCII):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(expected)
    return value


def parse_host(value: str) -> str:
    """The host to listen on: a name or an IP address, an IPv6 address with or without its brackets."""
    host = value[1:-1] if value.startswith("[") and value.endswith("]") else value
    if not re.fullmatch(r"[0-9A-Za-z_.:%-]+", host, re.ASCII):
        raise ValueError('expected a host name or an address such as "127.0.0.1", without scheme or path')
    return host


def parse_hosts(value: object) -> tuple[str, ...]:
    """The hosts to listen on, each once: one text (with commas between several, as an environment variable has
    them) or a list of texts, which may be empty."""
    if isinstance(value, str):
        # An IPv6 address in brackets is no list in JSON.
        bracketed = value.startswith("[") and ":" in value and '"' not in value
        value = [word.strip() for word in value.split(",")] if bracketed else parse_list(value) or [value]
    if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
        raise ValueError('expected text in quotes, such as "127.0.0.1", or a list of such')
    return tuple(dict.fromkeys(parse_host(each) for each in value))


def parse_allowed_host(value: str) -> str:
    """A Host header to answer (RFC 9110 §7.2), lower-case: a host, with any port or with just this one."""
    if not re.fullmatch(r"([0-9A-Za-z_.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?", value, re.ASCII):
        raise ValueError('expected hosts as clients send them, such as "example.com" or "example.com:3143"')
    return value.lower()


def parse_index_name(value: str) -> str:
    """The name of an index or a mount, as it stands in ``/index/{name}/simple/`` and ``/raw/{name}/...``."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", value, re.ASCII):
        raise ValueError('expected lower-case letters, digits, "-", "_" and ".", no mark first')
    return value


def parse_index_url(value: str) -> str:
    """The URL of a Simple API, with its final slash."""
    parts = _split(value, 'expected the URL of a Simple API such as "https://example.com/simple/"')
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}/"


def parse_mount_url(value: str) -> str:
    """The URL of a tree of anything, with a final slash: what is asked for is put behind it."""
    parts = _split(value, 'expected the URL of a directory such as "https://example.com/builds/"')
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.removesuffix('/')}/"


def parse_proxy_url(value: str) -> str:
    """The URL of a forward proxy: http, a host, and a port where it is not 80."""
    expected = 'expected the URL of a forward proxy such as "http://127.0.0.1:3128"'
    parts = _split(value, expected)
    if parts.scheme != "http" or parts.path.strip("/"):
        raise ValueError(expected)
    return f"http://{parts.netloc.lower()}"


def parse_public_url(value: str) -> str:
    """The URL clients know this proxy by, with the path a front proxy puts before ours; without a final slash."""
    parts = _split(value, 'expected the URL of this proxy such as "https://example.com/pypi"')
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


def parse_trusted_proxy(value: object) -> IPv4Network | IPv6Network | str:
    """An address or a network (RFC 4632, RFC 4291 §2.3) of front proxies, or "unix": whoever may open our socket."""
    expected = 'expected addresses and networks such as "127.0.0.1" or "10.0.0.0/8" without host bits, or "unix"'
    if value == "unix":
        return "unix"
    if not isinstance(value, str) or "%" in value:
        raise ValueError(expected)
    try:
        return ip_network(value)
    except ValueError:
        raise ValueError(expected) from None


def parse_missing_status(value: object) -> tuple[int, ...]:
    """The statuses that mean "there is no such project", sorted; 404 and 410 always do. 401 and 407 mean "who are
    you", 408, 425 and 429 "later": both would be taken for "look elsewhere"."""
    if isinstance(value, str):
        value = parse_list(value)
    if not isinstance(value, list | tuple):
        raise ValueError("expected a list of statuses such as [404, 403]")
    statuses = {404, 410} | {_whole(each, 400, 499, "expected statuses from 400 to 499") for each in value}
    if statuses & {401, 407}:
        raise ValueError("expected neither 401 nor 407: with a bad password every project would seem to be missing")
    if statuses & {408, 425, 429}:
        raise ValueError("expected none of 408, 425 and 429: they mean that a later request may succeed")
    return tuple(sorted(statuses))


def parse_username(value: str) -> str:
    """A user-id of RFC 7617 §2: no colon, no control characters."""
    if not value or not value.isprintable() or ":" in value:
        raise ValueError("expected a user name on one line, without a colon")
    return value


def _split(value: str, expected: str) -> SplitResult:
    """An http or https URL with a host, without userinfo, query and fragment. Raises ValueError(expected)."""
    if "@" in value:
        raise ValueError(f"{expected}, without credentials")
    # urlsplit silently drops tabs and line ends, and its own errors repeat what they dislike.
    if not re.fullmatch(r"[\x21-\x7e]+", value) or set(value) & set('\\?#"<>'):
        raise ValueError(expected)
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        usable = usable and not parts.netloc.endswith(":")
    except ValueError:
        raise ValueError(expected) from None
    if not usable:
        raise ValueError(expected)
    return parts


def parse_directory(value: Path) -> Path:
    """A directory, absolute, ``~`` expanded; it need not exist."""
    if value == Path() or "\0" in str(value):
        raise ValueError("expected a directory")
    return _absolute(value)


def parse_ca_file(value: str) -> str:
    """The absolute path of a file of certificates in PEM, which must be there: a typo is noticed at start."""
    path = _absolute(Path(value))
    try:
        certificates = path.read_bytes()
    except (OSError, ValueError):
        raise ValueError("expected a readable file of certificates") from None
    if b"-----BEGIN CERTIFICATE-----" not in certificates:
        raise ValueError("expected a file of certificates in PEM")
    return str(path)


def parse_pem_file(value: Path) -> Path:
    """The absolute path of a file in PEM, which ``tls`` reads."""
    if value == Path() or "\0" in str(value):
        raise ValueError("expected a file in PEM")
    return _absolute(value)


def parse_secret_file(value: Path) -> Path:
    """The absolute path of a file with one secret, which must be there; its content is not judged here."""
    path = _absolute(value)
    # A Path raises for a name that no system takes.
    if not (os.path.isfile(path) and os.access(path, os.R_OK)):
        raise ValueError("expected a readable file that holds the secret alone")
    return path


def parse_socket_path(value: Path) -> Path:
    """The absolute path of a socket, short enough for every system: sun_path has 104 bytes on macOS, 108 on Linux."""
    path = _absolute(value)
    if value == Path() or "\0" in str(value) or len(os.fsencode(path)) > 103:
        raise ValueError("expected the path of a socket, at most 103 bytes with all its directories")
    if not os.path.isdir(path.parent):
        raise ValueError("expected a path in a directory that is there")
    return path


def _absolute(path: Path) -> Path:
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        raise ValueError("expected a path; this user has no home directory") from None


def parse_list(value: object) -> object:
    """A list given as text, as environment variables do: JSON, or words with commas between them."""
    if not isinstance(value, str):
        return value
    if not value.lstrip().startswith(("[", "{")):
        return tuple(word.strip() for word in value.split(",") if word.strip())
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError("expected a list in JSON") from None
