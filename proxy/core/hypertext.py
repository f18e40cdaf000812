"""The Simple API's HTML, to and from the document of PEP 691 (PEP 503, 592, 629, 658, 714, 740, 792).

What HTML cannot say is absent from the document; what a document holds beyond that is absent from the HTML.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from html import escape, unescape
from itertools import islice
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

from selectolax.lexbor import LexborHTMLParser

from proxy.core.urls import normalise_project
from proxy.errors import MalformedPage

FILES_LIMIT = 200_000
API_VERSION = re.compile(r"1\.([0-9]{1,4})")
"""PEP 629: another major version is one we cannot read; the group is the minor one."""

HTML_FROZEN_AT = 4  # PEP 833: the HTML form grows no further than version 1.4
_ATTRIBUTES_LIMIT = 32
_ALL_ATTRIBUTES_LIMIT = 8 * FILES_LIMIT  # as many as all PEPs together have
_TOGETHER = 5_000
_HEADING_WITHIN = 65_536

# Files people publish; every other link of a page is navigation. The names are not looked into: those that
# today's tools refuse (wheel variants) are served all the same.
_SUFFIXES = (
    *(".whl", ".tar.gz", ".zip", ".tar.bz2", ".tgz", ".tar.xz", ".tar.z", ".tar", ".tbz", ".tbz2", ".txz"),
    *(".tar.lz", ".tar.lzma", ".tar.zst", ".egg", ".exe", ".msi", ".rpm", ".deb", ".dmg"),
)

# The tokeniser of the HTML standard (§13.2.5) for tags, comments and raw text, as one linear expression:
# nothing is given back (possessive), and what begins like a token runs to its end or to the end of the text.
# Building the tree of any page is quadratic in its depth and in the attributes of one tag (200 kB of `<div>`
# took 4 s): the parser is given only the tags that matter, none inside another.
_TOKEN = re.compile(
    rb"""
    < (?: (?P<kept> (?: a | base | meta ) BREAK (?: ATTRIBUTE ){0,LIMIT}+ ) [^>]*+ (?P<end> >?+ )
    | (?P<raw> script | style | textarea | title ) BREAK .*? (?: </(?P=raw) BREAK | \Z )
    | !-- (?: -?> | .*? (?: --!?> | \Z ) )
    | /?+ [a-z] [^ZZ/>]*+ (?: ATTRIBUTE )*+ [^>]*+ >?+
    | [!/?] [^>]*+ >?+ )
    """.replace(
        b"ATTRIBUTE",
        rb"""[ZZ/]*+ [^ZZ/>] [^ZZ/>=]*+
             (?: [ZZ]*+ = [ZZ]*+ (?: "[^"]*+"?+ | '[^']*+'?+ | [^ZZ>"'] [^ZZ>]*+ )?+ )?+""",
    )
    .replace(b"BREAK", rb"(?=[ZZ/>])")
    .replace(b"ZZ", rb"\t\n\f\r\x20")
    .replace(b"LIMIT", b"%d" % _ATTRIBUTES_LIMIT),
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
_HEADING = re.compile(rb"<(?:title|h1)[^>]{0,200}+>([^<]{0,500})", re.IGNORECASE)
_INDEX_HEADING = re.compile(r"\bsimple\b.*\bindex\b|\blinks\b.*\bfor\s+(\S+)", re.IGNORECASE | re.DOTALL)

_PLAIN_URL = re.compile(r"https?://[A-Za-z0-9.-]+(?::[0-9]{1,5})?/[!$&-;=?-Z_a-z~%]*")
# A relative link whose steps upwards all come first; what follows them needs no resolving.
_PLAIN_PATH = re.compile(r"(/|(?:\.\./)*)((?![./])(?:(?!/\.)[!$&-9;=@-Z_a-z~%])+(?:\?[!$&-;=?-Z_a-z~%]*)?)")
_OUTER_SPACE = re.compile(r"^[\0- ]+|[\0- ]+$|[\t\n\r]")
_FRAGMENT_HASH = re.compile(r"(?:^|&)([A-Za-z0-9_-]+)=([0-9A-Fa-f]{32,})(?=&|$)")
_TEXT_KEYS = {
    "data-requires-python": "requires-python",
    "data-upload-time": "upload-time",  # in no PEP, but some mirrors say it
}
_METADATA_KEYS = {"data-core-metadata": "core-metadata", "data-dist-info-metadata": "dist-info-metadata"}
_TEXT_ITEMS = tuple(_TEXT_KEYS.items())
# A known attribute in disguise could promise what the document does not.
_KNOWN = ("yanked", "gpg-sig", "provenance", *(name[5:] for name in (*_TEXT_KEYS, *_METADATA_KEYS)))
_UNKNOWN_KEY = re.compile(rf"_data-(?!(?:{'|'.join(_KNOWN)})$)[a-z0-9._-]+")
_SPECIAL = re.compile("[&<>\"'\r]").search


def absolute(link: str, base: str) -> str | None:
    """The http(s) URL that a link on a page means, without its fragment; None when it means none.

    An absolute URL keeps the page's own spelling, except for characters that no URL may hold (RFC 3986 §2):
    these are percent-encoded.
    """
    link = link.partition("#")[0]
    if _PLAIN_URL.fullmatch(link):
        return link
    if match := _PLAIN_PATH.fullmatch(link):
        root = _resolved(base, match[1] or ".")
        return root and root + match[2]
    # The URL standard: outer control characters and spaces, and every tab and newline, are dropped first.
    link = _OUTER_SPACE.sub("", link)
    return _resolved(base, quote(link, safe="%/:?[]@!$&'()*+,;=~"))


@lru_cache(maxsize=64)
def _resolved(base: str, reference: str) -> str | None:
    try:
        url = urljoin(base, reference)
        parts = urlsplit(url)
    except ValueError:
        return None
    return url if parts.scheme in ("http", "https") and parts.hostname else None


def advertised(file: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The hashes of a file's core metadata, {} when it is there without one, None when it is not.

    PEP 714: ``core-metadata`` wins over the older ``dist-info-metadata``. Text that is neither ``true`` nor a
    hash advertises nothing: metadata that then were missing would be fatal to pip and uv.
    """
    value = file.get("core-metadata")
    if value is None:
        value = file.get("dist-info-metadata")
    if isinstance(value, dict):
        return value
    return {} if value is True else None


def read(body: bytes, url: str, project: str) -> dict[str, Any]:
    """The document an HTML page amounts to; ``url`` is the page's own, ``project`` whose page it should be.

    It says version 1.0 whatever the page said: HTML has no sizes, and a document without them must not claim
    PEP 700's 1.1. Raises MalformedPage when it is no page of that project, a captive portal's for instance.
    """
    metas: list[tuple[str, str]] = []
    anchors: list[dict[str, str | None]] = []
    base = None
    for tag, attributes in _tags(body):
        if tag == "a":
            anchors.append(attributes)
        elif tag == "meta":
            metas.append(((attributes.get("name") or "").lower(), (attributes.get("content") or "").strip()))
        elif base is None and attributes.get("href") is not None:
            # HTML §4.2.3: the first <base> with a href counts, for links before it too.
            base = absolute(attributes["href"] or "", url) or url
    files = [file for attributes in anchors if (file := _file(attributes, base or url)) is not None]
    said = dict(metas)
    version = said.get("pypi:repository-version")
    if version is not None and not API_VERSION.fullmatch(version):
        raise MalformedPage("the page has an API version we cannot read")
    if not files and version is None and not _says_index(body, project):
        raise MalformedPage("the page names no file")
    prefix = normalise_project(project) + "-"
    if files and not any(normalise_project(file["filename"]).startswith(prefix) for file in files):
        raise MalformedPage("the page names no file of this project")
    document: dict[str, Any] = {"meta": {"api-version": "1.0"}, "name": project, "files": files}
    for place, key in ((document["meta"], "tracks"), (document, "alternate-locations")):
        if locations := [content for name, content in metas if name == f"pypi:{key}"]:
            place[key] = locations
    if status := said.get("pypi:project-status"):
        reason = said.get("pypi:project-status-reason")
        document["project-status"] = {"status": status} | ({"reason": reason} if reason else {})
    return document


def _tags(body: bytes) -> Iterator[tuple[str | None, dict[str, str | None]]]:
    """The a, base and meta tags with their attributes; a tag cut off by the end is no tag. The parser sees these alone,
    each anchor closed at once, some at a time: the tree of a page full of attributes takes a hundredfold."""
    kept = (match["kept"] for match in _TOKEN.finditer(body) if match["end"])
    tags = attributes = 0
    while some := b"".join([b"<%b></a>" % tag for tag in islice(kept, _TOGETHER)]):
        for node in LexborHTMLParser(some).css("a, base, meta"):
            found = node.attributes
            tags, attributes = tags + 1, attributes + len(found)
            yield node.tag, found
        if tags > FILES_LIMIT or attributes > _ALL_ATTRIBUTES_LIMIT:
            raise MalformedPage("the page lists too many files")


def _says_index(body: bytes, project: str) -> bool:
    """Whether title or heading name an index or this project's links: then the page may be empty."""
    for heading in _HEADING.findall(body[:_HEADING_WITHIN]):
        match = _INDEX_HEADING.search(unescape(heading.decode("utf-8", "replace")))
        if match and (match[1] is None or normalise_project(match[1]) == normalise_project(project)):
            return True
    return False


def _file(attributes: Mapping[str, str | None], base: str) -> dict[str, Any] | None:
    """The file that an anchor names, None when it names none."""
    href, _, fragment = (attributes.get("href") or "").partition("#")
    url = absolute(href, base)
    if url is None:
        return None
    path = url.partition("?")[0].split("/", 3)[3:]
    filename = unquote(path[0].rpartition("/")[2]) if path else ""
    if not filename.lower().endswith(_SUFFIXES):
        return None
    hashes = dict(_FRAGMENT_HASH.findall(fragment))
    file: dict[str, Any] = {"filename": filename, "url": url, "hashes": hashes}
    for name, value in attributes.items():
        text = value or ""
        if name in _TEXT_KEYS:
            file[_TEXT_KEYS[name]] = text
        elif name in _METADATA_KEYS:
            algorithm, equals, digest = text.partition("=")
            file[_METADATA_KEYS[name]] = {algorithm: digest} if equals else text.lower() == "true"
        elif name == "data-yanked":
            file["yanked"] = text or True  # PEP 592: there without a reason is yanked too
        elif name == "data-gpg-sig":
            file["gpg-sig"] = text.lower() == "true"
        elif name == "data-provenance":
            file["provenance"] = text if text.startswith("https://") else absolute(text, base) or text
        elif name.startswith("data-"):
            file[f"_{name}"] = text
    return file


def write(document: Mapping[str, Any]) -> bytes:
    """A document as an HTML page in UTF-8. Everything in it came from strangers, so all of it is escaped."""
    match = API_VERSION.fullmatch(document["meta"]["api-version"])
    minor = min(int(match[1]) if match else 0, HTML_FROZEN_AT)
    title = f"Links for {_escaped(document['name'])}"
    parts = [
        '<!DOCTYPE html>\n<html>\n<head>\n<meta charset="utf-8">\n',
        f'<meta name="pypi:repository-version" content="1.{minor}">\n',
        *(f'<meta name="pypi:{name}" content="{_escaped(content)}">\n' for name, content in _metas(document)),
        f"<title>{title}</title>\n</head>\n<body>\n<h1>{title}</h1>\n",
    ]
    parts += map(_anchor, document["files"])
    parts.append("</body>\n</html>\n")
    return "".join(parts).encode("utf-8")


def _metas(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    status = document.get("project-status")
    if isinstance(status, dict):
        for key, name in (("status", "project-status"), ("reason", "project-status-reason")):
            if isinstance(status.get(key), str):
                yield name, status[key]
    for name, locations in (
        ("tracks", document["meta"].get("tracks")),
        ("alternate-locations", document.get("alternate-locations")),
    ):
        if isinstance(locations, list):
            yield from ((name, location) for location in locations if isinstance(location, str))


def _anchor(file: Mapping[str, Any]) -> str:
    """One file's line. Pages have up to 200,000 of them: what is absent costs a look-up and no more."""
    pin = _one_hash(file.get("hashes"))
    line = f'<a href="{_escaped(file["url"] + "#" + pin if pin else file["url"])}"'
    for name, key in _TEXT_ITEMS:
        if isinstance(text := file.get(key), str):
            line += f' {name}="{_escaped(text)}"'
    if yanked := file.get("yanked"):
        line += f' data-yanked="{_escaped(yanked) if isinstance(yanked, str) else ""}"'
    if (metadata := advertised(file)) is not None:
        # PEP 714: both names, for clients older than it.
        pin = _escaped(_one_hash(metadata) or "true")
        line += f' data-core-metadata="{pin}" data-dist-info-metadata="{pin}"'
    if isinstance(signed := file.get("gpg-sig"), bool):
        line += f' data-gpg-sig="{"true" if signed else "false"}"'
    if isinstance(provenance := file.get("provenance"), str):
        line += f' data-provenance="{_escaped(provenance)}"'
    for key in file:
        if key[:6] == "_data-" and _UNKNOWN_KEY.fullmatch(key) and isinstance(file[key], str):
            line += f' {key[1:]}="{_escaped(file[key])}"'
    return f"{line}>{_escaped(file['filename'])}</a><br>\n"


def _one_hash(hashes: object) -> str | None:
    """``algorithm=digest`` of the hash to show where there is room for one: sha256, else the first."""
    if not isinstance(hashes, dict):
        return None
    sha256 = hashes.get("sha256")
    if sha256 and isinstance(sha256, str):
        return f"sha256={sha256}"
    named = (f"{name}={digest}" for name, digest in hashes.items() if digest and isinstance(digest, str))
    return next(named, None)


def _escaped(text: str) -> str:
    # A bare carriage return would come back as a newline (HTML §13.2.3.5).
    return escape(text).replace("\r", "&#13;") if _SPECIAL(text) else text
