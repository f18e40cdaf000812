"""Pages in JSON as nearly all indexes write them: read for what they must hold, and never written again.

Such a page holds what the PEPs name and nothing else, in ASCII without escapes, and its links are plain and of one
origin. So its text may stay as it is, but for the begin of each link. All other pages are for ``simple``, which says
the same of these, in twice the time and ten times the memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

import msgspec

from proxy.core.hypertext import API_VERSION, FILES_LIMIT
from proxy.core.simple import Listed, crowded, hashes_of
from proxy.core.urls import normalise_project, plain_origin

# No page of this size that can be read here is ``crowded``: it has 12 bytes or more for each object, 3 for each comma.
_NEVER_CROWDED = 6 * 2**20
_Natural = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class _File(msgspec.Struct, forbid_unknown_fields=True, rename="kebab", gc=False):
    """PEP 691 with 700, 714 and 740. No more, so nothing is nested deeply."""

    filename: str
    url: str
    hashes: dict[str, str] = {}
    size: _Natural | None = None
    upload_time: str | None = None
    core_metadata: bool | dict[str, str] | None = None
    dist_info_metadata: bool | dict[str, str] | None = None
    data_dist_info_metadata: bool | dict[str, str] | None = None
    requires_python: str | None = None
    yanked: bool | str = False
    gpg_sig: bool | None = None
    provenance: str | None = None


class _Document(msgspec.Struct, forbid_unknown_fields=True, rename="kebab", gc=False):
    """PEP 691 with 700, 708 and 792."""

    meta: dict[str, str | _Natural | bool | None]
    name: str
    files: list[_File]
    versions: list[str] = []
    project_status: dict[str, str] = {}
    alternate_locations: list[str] = []


_DECODER = msgspec.json.Decoder(_Document)


@dataclass(frozen=True, slots=True)
class PlainPage:
    """``text`` is the page with links that lead to us; ``links`` are the ``plain_links`` of its files, as it came."""

    text: bytes = field(repr=False)
    _files: list[_File] = field(repr=False)
    _start: int

    @property
    def files(self) -> tuple[Listed, ...]:
        """What it lists, made anew each time."""
        return tuple(map(_listed, self._files))

    @property
    def links(self) -> Mapping[str, str]:
        """Locations by URL, made anew each time."""
        return {file.url: file.url[self._start :] for file in self._files}


def read(body: bytes, project: str, up: str) -> PlainPage | None:
    """The page of that project, if it is a plain one; ``up`` is what stands before a location in a link to us."""
    if b"\\" in body or not body.isascii() or (len(body) > _NEVER_CROWDED and crowded(body)):
        return None
    try:
        document = _DECODER.decode(body)
    except msgspec.MsgspecError:
        return None
    version, files = document.meta.get("api-version"), document.files
    if not isinstance(version, str) or not API_VERSION.fullmatch(version) or len(files) > FILES_LIMIT:
        return None
    if normalise_project(document.name) != normalise_project(project) or not all(map(_stays, files)):
        return None
    origin = plain_origin([file.url for file in files])
    text = _turned(body, origin, up, len(files)) if origin else None
    return None if text is None else PlainPage(text, files, origin.index("//") + 2)


def _stays(file: _File) -> bool:
    return file.provenance is None or file.provenance.startswith("https://")


def _turned(body: bytes, origin: str, up: str, count: int) -> bytes | None:
    """The text with every link turned; None when another string than a file's URL begins with the origin, or when one
    key is spelled with other spaces than the next."""
    here, there = origin.encode(), f"{up}{origin.partition('//')[2]}".encode()
    key = b'"url": "' if b'"url": "' in body else b'"url":"'
    text = body.replace(key + here, key + there)
    turned, rest = divmod(len(text) - len(body), len(there) - len(here))
    return text if turned == count and not rest and b'"' + here not in text else None


def _listed(file: _File) -> Listed:
    told = file.dist_info_metadata if file.core_metadata is None else file.core_metadata
    metadata = hashes_of(told) if isinstance(told, dict) else {} if told else None
    return Listed(file.filename, file.url, hashes_of(file.hashes), file.size, file.upload_time, metadata)
