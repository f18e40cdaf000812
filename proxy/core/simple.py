"""The Simple API: read a project's page, point its links at us, write it again (PEP 503, 691 and their kin).

JSON is the form everything is kept in; unknown keys are carried at every level. HTML is in ``hypertext``, the
choice between them in ``negotiation``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from proxy.core import hypertext
from proxy.core.negotiation import HTML, HTML_V1, JSON_V1
from proxy.core.urls import normalise_project, plain_links
from proxy.errors import MalformedPage

DEPTH_LIMIT = 32
# For each of the most files a page may list: as many as all PEPs together have, and more.
_COMMAS_LIMIT = 20 * hypertext.FILES_LIMIT
_BRACKETS_LIMIT = 5 * hypertext.FILES_LIMIT
JSON_TYPES = {JSON_V1, "application/vnd.pypi.simple.latest+json", "application/json"}
HTML_TYPES = {HTML, HTML_V1, "application/vnd.pypi.simple.latest+html", "application/xhtml+xml"}
_HEX = re.compile(r"[0-9A-Fa-f]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NESTING = frozenset((dict, list))


@dataclass(frozen=True, slots=True)
class Listed:
    """What a page says of one file: the wall and the pin behind every fetch.

    ``url`` is absolute, in the page's own spelling, with its query and without its fragment. ``hashes`` maps
    lower-case algorithms to lower-case hex. ``size`` is in bytes, ``upload_time`` as the page wrote it.
    ``metadata`` holds the hashes of its core metadata: None when not advertised, {} when without a hash.
    """

    filename: str
    url: str = field(repr=False)  # its query may be signed
    hashes: Mapping[str, str]
    size: int | None = None
    upload_time: str | None = None
    metadata: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """A project's page: the document of PEP 691 with absolute file URLs, and their ``plain_links``, if those could be
    told: they are found in the document, too, and no part of what it says."""

    project: str
    document: dict[str, Any]
    links: Mapping[str, str] = field(compare=False)

    @property
    def files(self) -> tuple[Listed, ...]:
        """What it lists, made anew each time."""
        return tuple(_listed(file) for file in self.document["files"])


def parse(body: bytes, content_type: str, url: str, project: str) -> Page:
    """Read a page of ``project``; ``url`` is where it came from after redirects, for relative links.

    A file whose URL is not http(s) is left out. Anything else that is no page of that project (PEP 691 for
    JSON, PEP 503 for HTML), or beyond the limits of 200,000 files and a nesting of 32, raises MalformedPage.
    """
    if is_json(content_type):
        return _read_json(body, url, project)
    if _media_type(content_type) in HTML_TYPES:
        return Page(project, hypertext.read(body, url, project), {})
    raise MalformedPage("the page has a type that is no Simple API page")


def is_json(content_type: str) -> bool:
    """Whether a page of that type is a document of PEP 691."""
    return _media_type(content_type) in JSON_TYPES


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _read_json(body: bytes, url: str, project: str) -> Page:
    if crowded(body):
        raise MalformedPage("the page holds too many values")
    try:
        document: dict[str, Any] = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedPage("the page is not JSON") from error
    match document:
        case {"meta": {"api-version": str(version)}, "name": str(name), "files": list(files)}:
            pass
        case _:
            raise MalformedPage("the page lacks what a Simple API page must have")
    if not hypertext.API_VERSION.fullmatch(version):
        raise MalformedPage("the page has an API version we cannot read")
    if normalise_project(name) != normalise_project(project):
        raise MalformedPage("the page is of another project")
    if len(files) > hypertext.FILES_LIMIT:
        raise MalformedPage("the page lists too many files")
    if deeper_than(document, DEPTH_LIMIT):
        raise MalformedPage("the page is nested too deeply")
    links = _links_as_they_are(files)
    if not links:
        document["files"] = [file for file in files if _made_absolute(file, url)]
    return Page(project, document, links)


def crowded(body: bytes) -> bool:
    """Whether this JSON may hold more values than any honest document: looked at before it is read, for every three
    bytes of ``{},{},{},`` become ninety."""
    if len(body) > _COMMAS_LIMIT and body.count(b",") > _COMMAS_LIMIT:
        return True
    return len(body) > _BRACKETS_LIMIT and body.count(b"{") + body.count(b"[") > _BRACKETS_LIMIT


def deeper_than(value: Any, limit: int) -> bool:
    """Whether lists and objects, as they were read from JSON, are nested more than ``limit`` deep; level by level,
    because a recursion could itself run too deep."""
    level = [value]
    for _ in range(limit):
        level = [
            child
            for parent in level
            for child in (parent.values() if type(parent) is dict else parent)
            if type(child) in _NESTING
        ]
        if not level:
            return False
    return True


def _links_as_they_are(files: list[Any]) -> Mapping[str, str]:
    """The ``plain_links`` of files that all have a name, and no link that would become another: so it is on most pages.
    Else nothing."""
    try:
        links = plain_links([file["url"] for file in files])
        "".join([file["filename"] for file in files])
        provenances = [file.get("provenance") for file in files]
    except (AttributeError, KeyError, TypeError):
        return {}  # whoever looks at them one by one says what is wrong
    return links if all(type(each) is not str or each.startswith("https://") for each in provenances) else {}


def _made_absolute(file: Any, base: str) -> bool:
    """Resolve the links of one file in place; false when its URL leads nowhere we could go."""
    match file:
        case {"filename": str(), "url": str(link)}:
            pass
        case _:
            raise MalformedPage("the page has a file without a name or a URL")
    url = hypertext.absolute(link, base)
    if url is None:
        return False
    file["url"] = url
    # PEP 740: fully qualified, and never one of ours, so it stays what it is wherever it can.
    provenance = file.get("provenance")
    if isinstance(provenance, str) and not provenance.startswith("https://"):
        file["provenance"] = hypertext.absolute(provenance, base) or provenance
    return True


def _listed(file: Mapping[str, Any]) -> Listed:
    size, upload_time, metadata = file.get("size"), file.get("upload-time"), hypertext.advertised(file)
    return Listed(
        filename=file["filename"],
        url=file["url"],
        hashes=hashes_of(file.get("hashes")),
        size=size if type(size) is int and size >= 0 else None,  # a bool is no size
        upload_time=upload_time if isinstance(upload_time, str) else None,
        metadata=None if metadata is None else hashes_of(metadata),
    )


def hashes_of(value: object) -> dict[str, str]:
    """The hashes that a page tells, in lower case; what is none is left out."""
    if not isinstance(value, dict):
        return {}
    if len(value) == 1 and type(digest := value.get("sha256")) is str and _SHA256.fullmatch(digest):
        return value
    return {
        name.lower(): digest.lower()
        for name, digest in value.items()
        if isinstance(digest, str) and _HEX.fullmatch(digest)
    }


def relocate(document: Mapping[str, Any], link: Callable[[str], str]) -> dict[str, Any]:
    """A new document whose file URLs went through ``link(absolute URL)``; all else is shared, unchanged.

    A file whose URL ``link`` answers with ValueError has no place here and is left out.
    """
    files = []
    for file in document["files"]:
        try:
            files.append({**file, "url": link(file["url"])})
        except ValueError:
            continue
    return {**document, "files": files}


def render(document: Mapping[str, Any], media_type: str) -> bytes:
    """The document as JSON for JSON_V1 (PEP 691), as an HTML page for HTML_V1 and HTML (PEP 503)."""
    return orjson.dumps(document) if media_type == JSON_V1 else hypertext.write(document)


def dump_listing(files: Iterable[Listed]) -> bytes:
    """The files as compact JSON for the store: one array of six for each."""
    return orjson.dumps(
        [[file.filename, file.url, file.hashes, file.size, file.upload_time, file.metadata] for file in files]
    )


def load_listing(dumped: bytes) -> tuple[Listed, ...]:
    """What ``dump_listing`` wrote; raises ValueError on anything else."""
    rows = orjson.loads(dumped)
    if not isinstance(rows, list):
        raise ValueError("not a listing")
    return tuple(_row(row) for row in rows)


def _row(row: Any) -> Listed:
    if not isinstance(row, list) or len(row) != 6:
        raise ValueError("not a listing")
    filename, url, hashes, size, upload_time, metadata = row
    if not (
        isinstance(filename, str)
        and isinstance(url, str)
        and _is_text_mapping(hashes)
        and (size is None or type(size) is int)
        and (upload_time is None or isinstance(upload_time, str))
        and (metadata is None or _is_text_mapping(metadata))
    ):
        raise ValueError("not a listing")
    return Listed(filename, url, hashes, size, upload_time, metadata)


def _is_text_mapping(value: object) -> bool:
    return isinstance(value, dict) and {str}.issuperset(map(type, value.values()))
