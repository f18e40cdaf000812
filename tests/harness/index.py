"""A polite package index: pages as JSON and HTML, the JSON API, files, core metadata, validators, ranges."""

from __future__ import annotations

import gzip
import hashlib
import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.harness.bodies import Body, Held, Part
from tests.harness.exchange import Reply, Seen
from tests.harness.packages import Distribution, normalised

JSON_V1 = "application/vnd.pypi.simple.v1+json"
MODIFIED = "Fri, 02 Jan 2026 03:04:05 GMT"
_METADATA_ATTRIBUTES = ("data-core-metadata", "data-dist-info-metadata")
Links = Literal["absolute", "rooted", "relative", "base"]


@dataclass(slots=True)
class Index:
    """What the upstream has and how it speaks. Change it while the upstream runs; the next request sees it.

    ``links`` says how pages name files: absolute ones lead to the file host, a port of its own; rooted and
    relative ones, and those under ``<base>`` (HTML only), stay at the index's. A Cache-Control of None sends
    no such field; ``validators`` covers ETag and Last-Modified of pages and files; ``serials`` the X- header
    and the key that say ``serial``.
    """

    distributions: list[Distribution] = field(default_factory=list)
    formats: tuple[str, ...] = ("json", "html")
    links: Links = "absolute"
    validators: bool = True
    core_metadata: bool = True
    hashes: bool = True
    gzip: bool = True
    ranges: bool = True
    page_cache_control: str | None = "max-age=600, public"
    file_cache_control: str | None = "max-age=365000000, immutable, public"
    json_cache_control: str | None = "max-age=900, public"
    serials: bool = True
    serial: int = 100
    site_url: str = ""
    files_url: str = ""

    def bare(self) -> Index:
        """Like a corporate mirror: Content-Type, Content-Length, Accept-Ranges, Date, and nothing else."""
        self.validators = self.core_metadata = self.gzip = self.serials = False
        self.page_cache_control = self.file_cache_control = self.json_cache_control = None
        return self

    def html_only(self, links: Links = "absolute") -> Index:
        """Like an index that never heard of PEP 691."""
        self.formats, self.links = ("html",), links
        return self

    def add(self, *distributions: Distribution) -> None:
        """Publishes files; the serial moves on."""
        self.distributions = [*self.distributions, *distributions]
        self.serial += 1

    def remove(self, *distributions: Distribution) -> None:
        """Takes files down; the serial moves on."""
        self.distributions = [each for each in self.distributions if each not in distributions]
        self.serial += 1

    def files_of(self, project: str) -> list[Distribution]:
        """In the order they were published."""
        return [each for each in self.distributions if each.project == project]

    def reply(self, seen: Seen) -> Reply:
        """The polite reply to a request."""
        path = seen.path
        if path == "/simple/":
            return self._list(seen)
        if page := re.fullmatch(r"/simple/([^/]+)(/?)", path):
            project = normalised(page[1])
            if page[1] != project or not page[2]:
                return Reply(301, (("Location", f"/simple/{project}/"),))
            return self._page(seen, project)
        if asked := re.fullmatch(r"/pypi/([^/]+)(?:/([^/]+))?/json", path):
            return self._json(seen, normalised(asked[1]), asked[2])
        if path.startswith("/packages/"):
            return self._file(seen, path.rpartition("/")[2])
        return _not_found()

    def _list(self, seen: Seen) -> Reply:
        projects = sorted({each.project for each in self.distributions})
        document = {"meta": self._meta(), "projects": [{"name": project} for project in projects]}
        anchors = "".join(f'<a href="/simple/{each}/">{each}</a>\n' for each in projects)
        return self._rendered(seen, document, f"<!DOCTYPE html><html><body>\n{anchors}</body></html>")

    def _page(self, seen: Seen, project: str) -> Reply:
        files = self.files_of(project)
        if not files:
            return _not_found()
        document = {
            "meta": self._meta(),
            "name": project,
            "versions": sorted({each.version for each in files}),
            "files": [self._listed(each) for each in files],
        }
        return self._rendered(seen, document, self._html(project, files))

    def _json(self, seen: Seen, project: str, version: str | None) -> Reply:
        """The JSON API's document of a project, or of one of its versions."""
        files = self.files_of(project)
        releases: dict[str, list[dict[str, Any]]] = {}
        for each in files:
            releases.setdefault(each.version, []).append(self._released(each))
        shown = version if version is not None else files[-1].version if files else ""
        if shown not in releases:
            return _not_found()
        document = {
            "info": {"name": project, "version": shown, "summary": "made for a test", "yanked": False},
            "last_serial": self.serial,
            **({"releases": releases} if version is None else {}),
            "urls": releases[shown],
            "vulnerabilities": [],
        }
        return self._spoken(seen, "application/json", json.dumps(document).encode(), self.json_cache_control)

    def _released(self, each: Distribution) -> dict[str, Any]:
        return {
            "filename": each.filename,
            "url": self.url_of(each),
            "digests": {"sha256": each.sha256},
            "size": each.size,
            "packagetype": "bdist_wheel" if each.filename.endswith(".whl") else "sdist",
            "requires_python": each.requires_python,
            "yanked": each.yanked is not False,
        }

    def _rendered(self, seen: Seen, document: Mapping[str, Any], text: str) -> Reply:
        wants_json = JSON_V1 in seen.headers.get("accept", "")
        as_json = "json" in self.formats and (wants_json or "html" not in self.formats)
        body = (json.dumps(document) if as_json else text).encode()
        media_type = JSON_V1 if as_json else "text/html; charset=utf-8"
        return self._spoken(seen, media_type, body, self.page_cache_control)

    def _spoken(self, seen: Seen, media_type: str, body: bytes, control: str | None) -> Reply:
        """A text of the index with all the manners it has."""
        headers = [("Content-Type", media_type)]
        if self.gzip:
            headers.append(("Vary", "Accept, Accept-Encoding"))
            if "gzip" in seen.headers.get("accept-encoding", ""):
                body = gzip.compress(body, mtime=0)
                headers.append(("Content-Encoding", "gzip"))
        if self.serials:
            headers.append(("X-PyPI-Last-Serial", str(self.serial)))
        if not self.gzip:
            headers.append(("Accept-Ranges", "bytes"))
        return self._conditional(seen, tuple(headers), Held(body), control, _digest(body))

    def _file(self, seen: Seen, name: str) -> Reply:
        for each in self.distributions:
            if each.filename == name:
                etag = each.sha256[:32]
                return self._octets(seen, each.body, etag)
            if f"{each.filename}.metadata" == name and each.metadata is not None and self.core_metadata:
                return self._octets(seen, Held(each.metadata), each.metadata_sha256[:32])
        return _not_found()

    def _octets(self, seen: Seen, body: Body, etag: str) -> Reply:
        headers = [("Content-Type", "application/octet-stream")]
        if self.ranges:
            headers.append(("Accept-Ranges", "bytes"))
        reply = self._conditional(seen, tuple(headers), body, self.file_cache_control, etag)
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", seen.headers.get("range", ""))
        if not asked or not self.ranges or reply.status != 200 or asked[1] + asked[2] == "":
            return reply
        if seen.headers.get("if-range", f'"{etag}"') != f'"{etag}"':
            return reply
        return _part(reply, asked[1], asked[2])

    def _conditional(
        self, seen: Seen, headers: tuple[tuple[str, str], ...], body: Body, control: str | None, etag: str
    ) -> Reply:
        if control is not None:
            headers = (*headers, ("Cache-Control", control))
        if self.validators:
            headers = (*headers, ("ETag", f'"{etag}"'), ("Last-Modified", MODIFIED))
            known = seen.headers.get("if-none-match")
            since = seen.headers.get("if-modified-since") if known is None else None
            if known == f'"{etag}"' or since == MODIFIED:
                return Reply(304, headers)
        return Reply(200, headers, body)

    def _meta(self) -> dict[str, Any]:
        return {"api-version": "1.1"} | ({"_last-serial": self.serial} if self.serials else {})

    def _listed(self, each: Distribution) -> dict[str, Any]:
        listed: dict[str, Any] = {
            "filename": each.filename,
            "url": self.link(each),
            "hashes": {"sha256": each.sha256} if self.hashes else {},
            "size": each.size,
            "requires-python": each.requires_python,
            "yanked": each.yanked,
        }
        if each.upload_time is not None:
            listed["upload-time"] = each.upload_time
        if self.core_metadata:
            told = {"sha256": each.metadata_sha256} if each.metadata is not None else False
            listed |= {"core-metadata": told, "data-dist-info-metadata": told}
        return listed

    def link(self, each: Distribution) -> str:
        """The file's URL as pages spell it."""
        path = f"packages/{each.project}/{each.filename}"
        if self.links == "relative":
            return f"../../{path}"
        return f"{self.files_url}/{path}" if self.links == "absolute" else f"/{path}"

    def url_of(self, each: Distribution) -> str:
        """The file's absolute URL."""
        origin = self.files_url if self.links == "absolute" else self.site_url
        return f"{origin}/packages/{each.project}/{each.filename}"

    def _html(self, project: str, files: list[Distribution]) -> str:
        based = self.links == "base"
        base = f'<base href="{self.site_url}/packages/{project}/">' if based else ""
        anchors = []
        for each in files:
            link = each.filename if based else self.link(each)
            fragment = f"#sha256={each.sha256}" if self.hashes else ""
            named = {"href": link + fragment, "data-requires-python": each.requires_python}
            if self.core_metadata and each.metadata is not None:
                named |= dict.fromkeys(_METADATA_ATTRIBUTES, f"sha256={each.metadata_sha256}")
            if each.yanked is not False:
                named["data-yanked"] = "" if each.yanked is True else each.yanked
            said = (f'{key}="{html.escape(value)}"' for key, value in named.items() if value is not None)
            anchors.append(f"<a {' '.join(said)}>{each.filename}</a><br/>\n")
        head = f'<meta name="pypi:repository-version" content="1.0">{base}<title>{project}</title>'
        return f"<!DOCTYPE html><html><head>{head}</head><body>\n{''.join(anchors)}</body></html>"


def _part(reply: Reply, first: str, last: str) -> Reply:
    """One byte range (RFC 9110 §14), or 416."""
    size = reply.body.size
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if start >= stop:
        return Reply(416, (("Content-Range", f"bytes */{size}"),))
    part = Part(reply.body, start, stop)
    return Reply(206, (*reply.headers, ("Content-Range", f"bytes {start}-{stop - 1}/{size}")), part)


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:32]


def _not_found() -> Reply:
    return Reply(404, (("Content-Type", "text/plain"),), Held(b"404 Not Found"))
