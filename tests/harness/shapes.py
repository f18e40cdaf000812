"""Indexes as products shape them: base path, links, credentials, validators, redirects, and how they say no."""

from __future__ import annotations

import base64
import posixpath
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from tests.harness.bodies import Held
from tests.harness.exchange import Reply, Seen
from tests.harness.index import Index
from tests.harness.packages import Distribution

REFUSED = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
Style = Literal["relative", "absolute", "elsewhere"]


def basic(username: str, password: str) -> str:
    """An Authorization field (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def missing(_project: str) -> Reply:
    """404, as most say it."""
    return Reply(404, (("Content-Type", "text/html"),), Held(b"<html>no such project</html>"))


@dataclass(slots=True)
class Shape(Index):
    """HTML pages below ``base``, files where ``path`` says (``{project} {version} {filename} {sha256} {ab}``).

    ``style``: links are relative, absolute, or lead to the file host. ``authorization`` is demanded of every
    request to the index's own origin. ``signed``: links carry a signature, another one on each page, and files
    are refused (403, ``past`` for another status) without one that is valid. ``moved``: a file's own URL
    answers 302 to the file host, with a signature. ``absent`` answers for a project that is not there,
    ``page_name`` is what a page's URL redirects to. ``fields`` are added to every answer, ``without`` dropped.
    """

    base: str = "/simple/"
    path: str = "/packages/{project}/{filename}"
    style: Style = "relative"
    authorization: str | None = None
    signed: bool = False
    moved: bool = False
    past: int = 403
    page_name: str = ""
    fields: tuple[tuple[str, str], ...] = ()
    without: tuple[str, ...] = ()
    absent: Callable[[str], Reply] = missing
    signatures: set[str] = field(default_factory=set)
    signed_so_far: int = 0
    secret: str = "canary"

    def expire(self) -> None:
        """No signature given out so far is valid from now on."""
        self.signatures.clear()

    def file_path(self, each: Distribution) -> str:
        """Where the file is on its host."""
        named = {"project": each.project, "version": each.version, "filename": each.filename}
        return self.path.format(**named, sha256=each.sha256, ab=each.sha256[:2])

    def page_path(self, project: str) -> str:
        """Where the project's page is."""
        return f"{self.base}{project}/"

    def link(self, each: Distribution) -> str:
        """The file's URL as this page spells it, with a signature of its own where they are signed."""
        path = self.file_path(each)
        query = f"?{self._sign()}" if self.signed else ""
        if self.style == "relative":
            return posixpath.relpath(path, f"{self.base}{each.project}") + query
        return f"{self.files_url if self.style == 'elsewhere' else self.site_url}{path}{query}"

    def url_of(self, each: Distribution) -> str:
        """The file's absolute URL as pages list it, without a query."""
        return f"{self.files_url if self.style == 'elsewhere' else self.site_url}{self.file_path(each)}"

    def reply(self, seen: Seen) -> Reply:
        """The polite reply to a request."""
        own = seen.port == urlsplit(self.site_url).port
        if own and self.authorization is not None and seen.headers.get("authorization") != self.authorization:
            challenge = (("WWW-Authenticate", 'Basic realm="example"'), ("Content-Type", "text/html"))
            return Reply(401, challenge, Held(b"<html>who are you?</html>"))
        reply = self._answer(seen, own).without(self.without)
        return Reply(reply.status, (*reply.headers, *self.fields), reply.body)

    def _answer(self, seen: Seen, own: bool) -> Reply:
        if own and seen.path.startswith(self.base):
            project, _, rest = seen.path.removeprefix(self.base).partition("/")
            if not project:
                return self._list(seen)
            if not self.files_of(project):
                return self.absent(project)
            if rest != self.page_name:
                return Reply(302, (("Location", f"{self.page_path(project)}{self.page_name}"),))
            return self._page(seen, project)
        path = seen.path.removesuffix(".metadata")
        each = next((each for each in self.distributions if self.file_path(each) == path), None)
        if each is None:
            return self.absent("")
        query = seen.target.partition("?")[2]
        if own and self.moved:
            return Reply(302, (("Location", f"{self.files_url}{seen.path}?{self._sign()}"),))
        if (self.signed or self.moved) and query not in self.signatures:
            return Reply(self.past, (("Content-Type", "application/xml"),), Held(REFUSED))
        return self._file(seen, posixpath.basename(seen.path))

    def _sign(self) -> str:
        self.signed_so_far += 1
        signature = f"X-Signature={self.secret}-{self.signed_so_far}&X-Expires=60"
        self.signatures.add(signature)
        return signature


def artifactory(authorization: str | None = None) -> Shape:
    """A repository manager that adds fields of its own and offers core metadata."""
    return Shape(
        formats=("html",), gzip=False, serials=False, page_cache_control=None, file_cache_control=None,
        base="/artifactory/api/pypi/team/simple/",
        path="/artifactory/api/pypi/team/packages/{ab}/{sha256}/{filename}",
        authorization=authorization,
        fields=(("X-Artifactory-Id", "example"), ("X-Artifactory-Node-Id", "1"), ("Server", "Artifactory")),
    )  # fmt: skip


def nexus(authorization: str | None = None) -> Shape:
    """A repository manager whose only validator is Last-Modified."""
    return Shape(
        formats=("html",), gzip=False, serials=False, core_metadata=False,
        page_cache_control=None, file_cache_control=None,
        base="/repository/pypi-internal/simple/",
        path="/repository/pypi-internal/packages/{project}/{version}/{filename}",
        authorization=authorization, without=("ETag",),
    )  # fmt: skip


def devpi(authorization: str | None = None) -> Shape:
    """A server that says nothing of caching at all."""
    shape = Shape(
        base="/root/pypi/+simple/", path="/root/pypi/+f/{ab}/{sha256}/{filename}", authorization=authorization
    )
    shape.bare().html_only()
    return shape


def gitlab(authorization: str | None, forward: Callable[[str], Reply]) -> Shape:
    """Absolute links to its own host; what it lacks it redirects to another index."""
    root = "/api/v4/projects/1/packages/pypi"
    shape = Shape(
        base=f"{root}/simple/", path=f"{root}/files/{{sha256}}/{{filename}}", style="absolute",
        authorization=authorization, absent=forward,
    )  # fmt: skip
    shape.bare().html_only()
    return shape


def codeartifact(authorization: str | None = None) -> Shape:
    """Files answer with a redirect to a store of another origin, signed."""
    shape = Shape(
        base="/pypi/team/simple/", path="/pypi/team/simple-files/{project}/{version}/{filename}", moved=True,
        authorization=authorization,
    )  # fmt: skip
    shape.bare().html_only()
    return shape


def bucket() -> Shape:
    """Static pages in an object store: 403 for what is not there, links signed and to another host."""

    def denied(_project: str) -> Reply:
        return Reply(403, (("Content-Type", "application/xml"),), Held(REFUSED))

    return Shape(
        formats=("html",), gzip=False, serials=False, core_metadata=False,
        page_cache_control=None, file_cache_control=None,
        base="/bucket/simple/", path="/bucket/files/{project}/{filename}", style="elsewhere",
        signed=True, page_name="index.html", absent=denied,
    )  # fmt: skip
