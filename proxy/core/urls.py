"""Target <-> local path <-> upstream URL <-> store key <-> tag. Every spelling of an address lives here.

A file's local path is its upstream URL without the scheme: ``/files/{index}/{host}/{path}``. Two spellings name
the same file when their *locations* are equal: host in lower case, each path segment decoded and encoded again
(RFC 3986 §6.2.2; we also fold escaped sub-delimiters, because pip asks ``%2B`` where a page says ``+``).
"""

from __future__ import annotations

import re
import string
from collections.abc import Collection, Sequence
from urllib.parse import quote, unquote, unquote_to_bytes, urlsplit

from proxy.core.messages import FileTarget, JsonTarget, ListTarget, Moved, NotHere, PageTarget, RawTarget, Target

METADATA_SUFFIX = ".metadata"
NAME_LIMIT = 255
"""Bytes in a file name: what the file systems in use take."""

# PEP 508, names: ASCII letters, digits and ``._-``, beginning and ending with a letter or digit.
_PROJECT = re.compile(r"[A-Z0-9](?:[A-Z0-9._-]*[A-Z0-9])?", re.IGNORECASE | re.ASCII)
# All that PEP 440 lets stand in a version, and in those that came before it: nothing that could leave its segment.
_VERSION = re.compile(r"[A-Z0-9][A-Z0-9.!+_-]{0,99}", re.IGNORECASE | re.ASCII)
_INDEX_END = "/simple/"
# Most URLs: nothing in them can be spelled in another way. The way around saves seconds on the largest pages.
_PLAIN = re.compile(r"https?://([a-z0-9][a-z0-9.-]*(?::(?:[1-9][0-9]{3}|[1-5][0-9]{4}))?(?:/[A-Za-z0-9._~-]+)+)")
_PLAIN_ORIGIN = re.compile(r"https?://([a-z0-9][a-z0-9.-]*(?::(?:[1-9][0-9]{3}|[1-5][0-9]{4}))?/)")
_PLAIN_OCTETS = (string.ascii_letters + string.digits + "._~-/:\n").encode()
_ENDS = bytes.maketrans(b".\n", b"//")
# Escapes that the front gate refuses in a request; in a link they are escaped once more.
_HAZARDS = re.compile(r"%(2f|5c|00|0a|0d)", re.IGNORECASE)
_SDIST_SUFFIXES = (
    ".tar.gz",
    ".tar.bz2",
    ".tar.xz",
    ".tar.z",
    ".tgz",
    ".zip",
    ".tar",
    ".egg",
    ".exe",
    ".msi",
    ".rpm",
    ".deb",
    ".dmg",
)
# A name, an IPv4 address, or an IPv6 address in brackets, with a port or without. What egress refuses, and what an URL
# parser could read in two ways (an escape, a backslash, a zone, text around the brackets), is none here.
_AUTHORITY = re.compile(r"(?:[0-9A-Za-z._-]+|\[[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*\])(?::[0-9]*)?")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_SPLITS_LIMIT = 8
_LOOKS_LIMIT = 2


def normalise_project(name: str) -> str:
    """The project name as PEP 503 spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def is_project(name: str) -> bool:
    """Whether PEP 508 allows it as a project's name."""
    return _PROJECT.fullmatch(name) is not None


def parse_target(raw_path: str, indexes: Collection[str], default: str, mounts: Collection[str] = ()) -> Target:
    """What a raw request path (no query) asks for; ``default`` is the index behind ``/simple/``."""
    segments = raw_path.split("/")[1:]
    match segments:
        case ["simple", "pypi", raw, "json"]:
            return _json(default, raw)
        case ["simple", *rest]:
            return _simple(rest, default, "../")
        case ["index", name, "simple", "pypi", raw, "json"] if name in indexes:
            return _json(name, raw)
        case ["index", name, "simple", *rest] if name in indexes:
            return _simple(rest, name, "../../../")
        case ["files", name, host, *path] if name in indexes and host and path and path[-1]:
            return _file(name, host, path)
        case ["raw", name, *path] if name in mounts:
            return RawTarget(name, "/".join(path)) if path else Moved(f"{name}/")
        case ["pypi", raw, "json"] | [raw, "json"]:
            return _json(default, raw)
        case ["pypi", raw, version, "json"]:
            return _json(default, raw, version)
        case ["index", name, "pypi", raw, "json"] | ["index", name, raw, "json"] if name in indexes:
            return _json(name, raw)
        case ["index", name, "pypi", raw, version, "json"] if name in indexes:
            return _json(name, raw, version)
        case _:
            return NotHere("no such path")


def _simple(rest: list[str], index: str, up: str) -> Target:
    match rest:
        case []:
            return Moved("simple/")
        case [""]:
            return ListTarget(index, up)
        case [raw]:
            name, moved = unquote(raw), "{}/"
        case [raw, ""]:
            name, moved = unquote(raw), "../{}/"
        case _:
            return NotHere("no such path")
    if not _PROJECT.fullmatch(name):
        return NotHere("not a project name")
    project = normalise_project(name)
    if len(rest) == 1 or raw != project:
        return Moved(moved.format(project))
    return PageTarget(index, project, f"{up}../")


def _json(index: str, raw: str, raw_version: str | None = None) -> Target:
    """Everything below ``pypi/``, and what pip-tools makes of an index URL: ``<base>/<name>/json``, where the base
    is all before its final ``simple``. Its releases up to 7.5 join ``pypi/<name>/json`` to the URL as it is spelled:
    that is below ``simple/`` for whoever ends it with a slash."""
    name, version = unquote(raw), None if raw_version is None else unquote(raw_version)
    if not _PROJECT.fullmatch(name):
        return NotHere("not a project name")
    if version is not None and not _VERSION.fullmatch(version):
        return NotHere("not a version")
    project = normalise_project(name)
    if raw == project:
        return JsonTarget(index, project, version)
    return Moved(f"../{project}/json" if version is None else f"../../{project}/{quote(version, safe='!+')}/json")


def json_url(index_url: str, target: JsonTarget) -> str | None:
    """Where an index keeps its JSON API: its URL with the final ``/simple/`` replaced by ``/pypi/``; None when the
    URL (which has a final slash) does not end so."""
    if not index_url.endswith(_INDEX_END):
        return None
    version = "" if target.version is None else f"/{quote(target.version, safe='!+')}"
    return f"{index_url.removesuffix(_INDEX_END)}/pypi/{target.project}{version}/json"


def _file(index: str, host: str, path: list[str]) -> Target:
    location = _canonical(host, path)
    metadata = location.endswith(METADATA_SUFFIX)
    location = location.removesuffix(METADATA_SUFFIX)
    if location.endswith("/") or not usable_name(file_name(location)):
        return NotHere("not a file name")
    return FileTarget(index, location, metadata)


def _canonical(host: str, path: list[str]) -> str:
    segments = [quote(unquote(host).lower().removesuffix(":"), safe="[]:.")]
    segments.extend(quote(unquote_to_bytes(segment), safe="") for segment in path)
    return "/".join(segments)


def link_of(url: str) -> str:
    """The part of a local file path behind ``/files/{index}/``: the URL's own spelling, without its scheme and
    query. Raises ValueError for a URL that has no place below a path (userinfo, no plain host, no file name)."""
    return _plain(url) or _link(url)


def _plain(url: str) -> str | None:
    found = _PLAIN.fullmatch(url)
    return found[1] if found is not None and "/." not in url else None


def plain_links(urls: Sequence[str]) -> dict[str, str]:
    """``link_of`` and ``location_of``, which are the same there, by URL, where all of them are plain and of one origin;
    else nothing."""
    start = plain_origin(urls).find("//") + 2
    return {url: url[start:] for url in urls} if start > 1 else {}


def plain_origin(urls: Sequence[str]) -> str:
    """``scheme://authority/``, where all URLs begin so and none could be spelled in another way; else nothing. They are
    looked at as one text: for a page's thousands that takes a tenth of the time."""
    origin = _PLAIN_ORIGIN.match(urls[0]) if urls else None
    text, count = "\n".join(["", *urls, ""]), len(urls)
    if origin is None or not text.isascii() or (octets := text.encode("ascii")).translate(None, _PLAIN_OCTETS):
        return ""
    begin_so = text.count("\n") - 1 == text.count(f"\n{origin[0]}") == count
    colons = octets.count(b":") == count * origin[0].count(":")
    # No empty segment, none that begins with a dot, none at the end; nor what looks so here, such as two dots.
    return origin[0] if begin_so and colons and octets.translate(_ENDS).count(b"//") == count else ""


def _link(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or not _AUTHORITY.fullmatch(parts.netloc):
        raise ValueError("not a plain http URL")
    host = parts.hostname
    if ":" in host:
        host = f"%5B{host}%5D"
    if parts.port is not None and parts.port != _DEFAULT_PORTS[parts.scheme]:
        host = f"{host}:{parts.port}"
    # An empty segment (`a//b`) would be refused by the front gate: it gets the spelling of an escaped slash.
    # Hazards are looked for after quoting: a bare backslash is one only then.
    segments = [_HAZARDS.sub(r"%25\1", _quoted(segment)) or "%252F" for segment in parts.path.split("/")[1:]]
    if parts.path.endswith("/") or not segments or any(dotted(segment) for segment in segments):
        raise ValueError("not a path to a file")
    return "/".join([host, *segments])


def _quoted(segment: str) -> str:
    """A segment with what no URL may hold escaped (RFC 3986 §3.3), and everything else as it is spelled."""
    return quote(segment, safe="%:!$&'()*+,;=@~")


def dotted(segment: str) -> bool:
    """Whether a segment of a path leads elsewhere than below. Some servers take one with parameters, ``..;x``, for the
    one before them."""
    return unquote(segment).partition(";")[0] in (".", "..")


def without_query(url: str) -> str:
    """The URL without its query and fragment: a signature in one is a secret, and not kept."""
    return url.partition("#")[0].partition("?")[0]


def location_of(url: str) -> str:
    """The normalised upstream URL without scheme, query and fragment. Raises ValueError as ``link_of``."""
    plain = _plain(url)
    if plain is not None:
        return plain
    host, *path = _link(url).split("/")
    return _canonical(host, path)


def file_name(location: str) -> str:
    """The decoded last segment of a location or URL path."""
    return unquote(location.rpartition("/")[2])


def usable_name(name: str) -> bool:
    """Whether a file may be called that on disk: no separators, control characters, leading dot or excess."""
    return (
        bool(name)
        and not name.startswith(".")
        and len(name.encode("utf-8", "surrogatepass")) <= NAME_LIMIT
        and not any(character in "/\\" or not character.isprintable() for character in name)
    )


def projects_of(filename: str) -> tuple[str, ...]:
    """The normalised project names a file name may belong to, the likeliest first; empty when it has none.

    A wheel names its project before the first ``-`` (binary distribution format). Old sdist names are ambiguous:
    every split is a candidate, first those where a version seems to begin, the last of them leading.
    """
    return tuple(dict.fromkeys(name for name, _ in _splits(filename)))[:_SPLITS_LIMIT]


def likely_projects_of(filename: str) -> tuple[str, ...]:
    """Those of ``projects_of`` that are worth a look at the upstream: at most two, at least one if there is any."""
    likely = tuple(dict.fromkeys(name for name, version in _splits(filename) if version))
    return likely[:_LOOKS_LIMIT] or projects_of(filename)[:1]


def _splits(filename: str) -> list[tuple[str, bool]]:
    """Project names with whether a version seems to follow."""
    lowered = filename.lower()
    if lowered.endswith(".whl"):
        splits = [(filename.split("-", 1)[0], True)] if "-" in filename else []
    else:
        suffix = next((suffix for suffix in _SDIST_SUFFIXES if lowered.endswith(suffix)), None)
        if suffix is None:
            return []
        words = filename[: -len(suffix)].split("-")
        cuts = range(len(words) - 1, 0, -1)
        splits = [("-".join(words[:cut]), words[cut][:1].isdigit()) for cut in cuts]
        splits.sort(key=lambda split: not split[1])
    return [(normalise_project(name), version) for name, version in splits if _PROJECT.fullmatch(name)]


def tag_of(index: str, project: str) -> str:
    """The store tag under which everything of one project lies."""
    return f"{index}/{project}"


def page_key(index: str, project: str) -> str:
    """The store key of a page's head; its renditions and its listing have keys that begin with it."""
    return f"page|{index}|{project}"


def listing_key(index: str, project: str) -> str:
    """The store key of what a page listed."""
    return f"listing|{index}|{project}"


def json_key(target: JsonTarget) -> str:
    """The store key of a JSON API document's head; its body has a key that begins with it."""
    return f"json|{target.index}|{target.project}|{target.version or ''}"


def list_key(index: str) -> str:
    """The store key of an index's project list."""
    return f"projects|{index}"


def file_key(target: FileTarget, pin: str) -> str:
    """The store key of a file: the hash its page lists (``pin``: ``sha256=…``, or empty) is a part of it."""
    kind = "metadata" if target.metadata else "file"
    return f"{kind}|{target.index}|{target.location}|{pin}"
