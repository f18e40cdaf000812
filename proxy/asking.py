"""One question to an upstream: what does it have for a project's page? And the page it sends, made ready to be kept."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from proxy.core import negotiation, plainpage, simple
from proxy.core.freshness import validators
from proxy.core.messages import Entry, Head, PageTarget
from proxy.core.plainpage import PlainPage
from proxy.core.urls import link_of, without_query
from proxy.errors import UpstreamFailed
from proxy.manifests import Manifest, manifest_of
from proxy.renditions import BASE_UP, DIGEST, packed
from proxy.replies import Reply
from proxy.unpacking import read_coded
from proxy.upstream import Upstream

_RENDERING = "1"
"""Part of every version: raised when the same upstream page would be rendered otherwise than before."""
INLINE = 64 * 1024
"""Up to so many bytes, parsing and compressing is quicker than a hop to a thread."""


Listing = tuple[Manifest, bytes]


@dataclass(frozen=True, slots=True)
class Received:
    """A page: its version (see ``Entry.body``), its decoded bytes, where it came from without the query, what makes its
    listing, with the dump of that, and its base rendition."""

    version: str
    size: int
    url: str
    listing: Callable[[], Listing]
    base: bytes


class Asking:
    """Asks the upstreams of all indexes; ``sites`` gives each index's URL with a final slash, ``page_max`` is the most
    decoded bytes."""

    def __init__(self, sites: Mapping[str, str], upstream: Upstream, *, page_max: int) -> None:
        self._sites = sites
        self._upstream = upstream
        self._page_max = page_max

    def url_of(self, target: PageTarget) -> str:
        """Where its index has the page."""
        return f"{self._sites[target.index]}{target.project}/"

    async def ask(
        self, target: PageTarget, entry: Entry | None, *, past_caches: bool = False
    ) -> tuple[Head | UpstreamFailed, Received | None]:
        """The upstream's head, and the page it sent if it is one; a failure to get it is an outcome, no error. With
        an ``entry`` only for another page than that."""
        headers = {"Accept": negotiation.UPSTREAM_ACCEPT, "Accept-Encoding": "gzip"}
        if entry is not None:
            headers |= validators(entry.head)
        if past_caches:
            headers |= {"Cache-Control": "no-cache"}
        url, status = self.url_of(target), None
        try:
            async with self._upstream.open(target.index, url, pool="page", headers=headers) as reply:
                status = reply.head.status
                if reply.head.status != 200:
                    return reply.head, None
                came, decode = await read_coded(reply, limit=self._page_max)
            work = partial(_received, target, reply, decode)
            return reply.head, work() if came <= INLINE // 4 else await asyncio.to_thread(work)
        except UpstreamFailed as failure:
            return failure.after(status), None


def _received(target: PageTarget, reply: Reply, decode: Callable[[], bytes]) -> Received:
    body = decode()
    if not reply.framed and not _ends_itself(body):
        raise UpstreamFailed("the page may have been cut short", status=503, retry_after=2)
    page, text = _read(body, reply, target)
    base = packed(text)
    # Not of the body: where links are signed anew for each request, it never comes twice, and every
    # rendition would be made again of what no client can tell from the last one.
    version = hashlib.sha256(f"{_RENDERING}\0".encode() + base[:DIGEST]).hexdigest()
    return Received(version, len(body), without_query(reply.url), partial(_listing, page), base)


def _read(body: bytes, reply: Reply, target: PageTarget) -> tuple[PlainPage | simple.Page, bytes]:
    """The page, and as JSON with links to us."""
    content_type, up = reply.head.header("Content-Type") or "text/html", f"{BASE_UP}files/{target.index}/"
    if simple.is_json(content_type) and (plain := plainpage.read(body, target.project, up)) is not None:
        return plain, plain.text
    page = simple.parse(body, content_type, reply.url, target.project)
    links = page.links
    document = simple.relocate(page.document, lambda url: up + (links.get(url) or link_of(url)))
    return page, simple.render(document, negotiation.JSON_V1)


def _listing(page: PlainPage | simple.Page) -> Listing:
    manifest = manifest_of(page.files, page.links)
    return manifest, simple.dump_listing(manifest.values())


def _ends_itself(body: bytes) -> bool:
    """Whether a page without a length shows its own end: JSON that parses does, HTML must close."""
    tail = body[-64:].rstrip().lower()
    return tail.endswith((b"</html>", b"}"))
