"""The manifest rule: a file is fetched only if a page of its index lists exactly that URL.

This is the wall against open proxying: no request ever goes to a host that no page named, and an invented URL
causes at most one look at one page.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

from proxy.core import decide
from proxy.core.messages import Entry, FileTarget, Request, Rules
from proxy.core.simple import Listed
from proxy.core.urls import METADATA_SUFFIX, file_key, file_name, likely_projects_of, projects_of, tag_of
from proxy.directory import RoomName
from proxy.errors import Refused, StoreFailed, UpstreamFailed
from proxy.fence import Named, name_of
from proxy.filebodies import etag_of
from proxy.pages import Pages
from proxy.plan import strongest
from proxy.store import Store

# How stores answer a signed URL past its time: most 403, some 400 or 401; 404 where the index says that any of these
# means so.
_PAST_ITS_TIME = frozenset({400, 401, 403, 404, 410})


@dataclass(frozen=True, slots=True)
class Wanted:
    """One file as its page lists it: what to ask for, and what it must turn out to be. ``since`` is the store's mark
    from before the page was looked at."""

    target: FileTarget
    project: str
    url: str = field(repr=False)  # its query may be signed
    hashes: dict[str, str]
    size: int | None
    file_hashes: dict[str, str]
    since: int

    @property
    def key(self) -> str:
        """The store key; the strongest listed hash is a part of it. Metadata without a hash of its own is that of
        a file: with another file it is another one."""
        pin = strongest(self.hashes) or strongest(self.file_hashes)
        return file_key(self.target, f"{pin[0]}={pin[1]}" if pin else "")

    @property
    def etag(self) -> str | None:
        """The ETag, when the page alone tells it."""
        return etag_of(self.hashes["sha256"]) if "sha256" in self.hashes else None

    @property
    def tag(self) -> str:
        """Under which tag of the store it lies."""
        return tag_of(self.target.index, self.project)

    @property
    def named(self) -> Named:
        """What it is called there."""
        return name_of(self.room, self.key, self.tag, self.name)

    @property
    def room(self) -> RoomName:
        """Where in the store it lies."""
        return room_of(self.target)

    @property
    def name(self) -> str:
        """Its name on disk."""
        name = file_name(self.target.location)
        return name + METADATA_SUFFIX if self.target.metadata else name


def room_of(target: FileTarget) -> RoomName:
    """Where in the store a file or its metadata lies."""
    return "responses" if target.metadata else "wheels"


class Listings:
    """Finds what pages say of a file."""

    def __init__(self, pages: Pages, store: Store, *, rules: Rules, clock: Callable[[], float]) -> None:
        self._pages = pages
        self._store = store
        self._rules = rules
        self._clock = clock

    async def find(self, request: Request, target: FileTarget) -> Wanted | Entry:
        """What a page says of that URL; a cached entry that pages no longer list; or Refused."""
        since = self._store.mark()
        projects = projects_of(file_name(target.location))
        for project in projects:
            manifest = await self._pages.manifest(target.index, project)
            if manifest is not None and target.location in manifest:
                return self._wanted(target, project, manifest[target.location], since)
        entry = await self._cached_anyway(target, projects)
        if entry is not None:
            return entry
        before = decide.before_upstream(request, None, self._clock(), self._rules)
        if isinstance(before, decide.Refuse):
            raise decide.refusal(before)
        for project in likely_projects_of(file_name(target.location)):
            # Few looks, none at a page seen a moment ago: an invented URL must not make us walk the index.
            manifest = await self._pages.look(target.index, project, request)
            if manifest is not None and target.location in manifest:
                return self._wanted(target, project, manifest[target.location], since)
        raise Refused("no page of this index lists that file", status=404)

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._clock()

    def still(self, wanted: Wanted) -> bool:
        """Whether it is known at once that the page lists the same as it did."""
        target = wanted.target
        if projects_of(file_name(target.location))[0] != wanted.project:
            return False  # of an old name, which may be another project's by now
        manifest = self._pages.manifest_at_hand(target.index, wanted.project)
        listed = None if manifest is None else manifest.get(target.location)
        try:
            return listed is not None and self._wanted(target, wanted.project, listed, wanted.since).key == wanted.key
        except Refused:
            return False

    async def _cached_anyway(self, target: FileTarget, projects: tuple[str, ...]) -> Entry | None:
        prefix = file_key(target, "")
        room = room_of(target)
        try:
            for project in projects:
                for entry in await self._store.find(room, tag_of(target.index, project)):
                    if entry.key.startswith(prefix):
                        return entry
        except StoreFailed:
            return None
        return None

    def _wanted(self, target: FileTarget, project: str, listed: Listed, since: int) -> Wanted:
        hashes = dict(listed.hashes)
        if not target.metadata:
            return Wanted(target, project, listed.url, hashes, listed.size, hashes, since)
        if listed.metadata is None:
            raise Refused("the index offers no metadata for that file", status=404)
        # PEP 658: the metadata's URL is the file's with ".metadata" appended to its path.
        parts = urlsplit(listed.url)
        url = urlunsplit(parts._replace(path=parts.path + METADATA_SUFFIX))
        return Wanted(target, project, url, dict(listed.metadata), None, hashes, since)

    async def signed_again(self, request: Request, wanted: Wanted, refused: UpstreamFailed) -> Wanted | None:
        """The same file under the URL that its page gives it now, when the one that was refused had a query: what
        was signed there may have expired. None when there is no other URL to try."""
        if refused.upstream_status not in _PAST_ITS_TIME or not urlsplit(wanted.url).query:
            return None
        again = await self.find_again(request, wanted, whole=True)
        return again if again.url != wanted.url else None

    async def find_again(self, request: Request, wanted: Wanted, *, whole: bool = False) -> Wanted:
        """What the page says now of a file whose body was not what the page had said: it may have been replaced."""
        target, since = wanted.target, self._store.mark()
        try:
            manifest = await self._pages.look(target.index, wanted.project, request, whole=whole)
        except UpstreamFailed:
            return wanted
        listed = manifest.get(target.location) if manifest is not None else None
        return self._wanted(target, wanted.project, listed, since) if listed is not None else wanted

    async def still_listed(self, request: Request, wanted: Wanted) -> None:
        """A listed file that the upstream lacks is a failure (CDN lag) unless its page has dropped it."""
        manifest = await self._pages.look(wanted.target.index, wanted.project, request)
        if manifest is None or wanted.target.location not in manifest:
            raise Refused("the index no longer lists that file", status=404)
