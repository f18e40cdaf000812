"""What one client of the long day may want, and whether what it gets is that, byte for byte."""

from __future__ import annotations

import asyncio
import hashlib
import html
import json
import math
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from urllib.parse import unquote, urljoin, urlsplit

from tests.harness.fetch import Fetched
from tests.harness.index import JSON_V1
from tests.promises.soakasking import Connection, Got, Later, Place, Tally, Wish, Wrong
from tests.promises.soakelsewhere import PROJECTS
from tests.promises.soakworld import TREE, WINDOW, leaf, name_of, number_of, release

MEDIA = {"json": JSON_V1, "html": "text/html"}
CODINGS = ("identity", "gzip", "zstd", "gzip, zstd")
RUNNERS, POPULAR = 20, 20
"""How many of them ask for the page of one of how many projects."""
FORGOTTEN_AFTER = 5.0
"""Seconds after which a client that wants a file looks at its page again."""
KEPT = frozenset({
    "page", "unchanged page", "fleet", "file", "range", "metadata", "document", "list", "page elsewhere",
    "file elsewhere",
})  # fmt: skip
"""Wishes that an upstream's bad day must not touch once they were granted."""
_ANCHOR = re.compile(r'<a\b[^>]*\bhref="([^"]*)#sha256=([0-9a-f]{64})"')


@dataclass(frozen=True, slots=True)
class Facts:
    """What is right for a release: hashes are lower-case hex, ``path`` is the one at the server."""

    sha256: str
    metadata_sha256: str
    size: int
    path: str


PASSED_ON = frozenset({401, 403, 404, 410, 429, 500})
"""What an origin says that a mount has to pass on, and that is no answer to what was wanted."""


@lru_cache(maxsize=20_000)
def facts(project: int, number: int, files: str, index: str = "test") -> Facts:
    """Of that release, whose file is on the host ``files``."""
    each = release(project, number)
    path = f"/files/{index}/{files}/packages/{each.project}/{each.filename}"
    return Facts(each.sha256, each.metadata_sha256, each.size, path)


@dataclass(frozen=True, slots=True)
class Page:
    """A page that was right: its bytes, ETag, and the numbers of its releases."""

    body: bytes
    etag: str
    numbers: tuple[int, ...]


@dataclass(slots=True)
class Known:
    """What the clients of this process have seen; ``had`` are the paths whose answers are kept, and since when.
    ``epoch`` is another one after each purge: then an upstream's older page is as good as any. While one goes on
    nothing is known: NaN is unlike itself."""

    pages: dict[tuple[int, str, str], Page] = field(default_factory=dict)
    newest: dict[int, tuple[int, float]] = field(default_factory=dict)
    had: dict[str, float] = field(default_factory=dict)
    epoch: float = 0.0
    _purges: int = 0

    def purging(self) -> None:
        """Nothing is known to be kept."""
        self.epoch = math.nan
        self.pages.clear()
        self.newest.clear()
        self.had.clear()

    def purged(self) -> None:
        """From now on it is again."""
        self._purges += 1
        self.epoch = self._purges


class Visitor:
    """A client with a connection of its own."""

    def __init__(self, place: Place, known: Known, tally: Tally, seed: int) -> None:
        self.connection = Connection(place, tally)
        self._place = place
        self._known = known
        self._tally = tally
        self._order = random.Random(seed)
        self._chance = random.Random()
        self._wishes: Mapping[str, tuple[float, Wish]] = {
            "page": (30, self._page),
            "unchanged page": (16, self._unchanged),
            "fleet": (12, self._fleet),
            "file": (14, self._file),
            "range": (6, self._range),
            "head": (4, self._head),
            "metadata": (8, self._metadata),
            "document": (4, self._document),
            "list": (0.3, self._list),
            "leaf": (6, self._leaf),
            "unchanged leaf": (2, self._unchanged_leaf),
            "range of a leaf": (2, self._range_of_leaf),
            "upload": (0.5, self._upload),
            "page elsewhere": (1.5, self._page_elsewhere),
            "file elsewhere": (0.7, self._file_elsewhere),
            "leaf elsewhere": (0.4, self._leaf_elsewhere),
            "missing": (2, self._missing),
            "moved": (1, self._moved),
            "refused": (0.5, self._refused),
            "operation": (0.3, self._operation),
            "admin": (0.7, self._admin),
            "leaver": (1, self._leave),
            "slow reader": (0.05, self._slowly),
        }
        self._kinds = list(self._wishes)
        self._weights = [weight for weight, _ in self._wishes.values()]

    def wish(self) -> tuple[str, Wish]:
        """The next one, and its kind. Called again it wants the same again."""
        (kind,) = self._order.choices(self._kinds, self._weights)
        seed, wish = self._order.getrandbits(32), self._wishes[kind][1]

        async def same() -> None:
            self._chance.seed(seed)
            epoch = self._known.epoch
            await wish()
            if epoch == self._known.epoch and kind in KEPT:
                self._known.had.setdefault(self.connection.asked, time.monotonic())

        return kind, same

    def had(self, kind: str) -> bool:
        """Whether somebody had got what was asked for last, by a wish of that kind, and such is kept."""
        asked, at = self.connection.asked, self.connection.asked_at
        return kind in KEPT and self._known.had.get(asked, math.inf) < at

    def _project(self) -> int:
        return int(self._place.projects * self._chance.random() ** 2)

    async def _page(self) -> None:
        await self._look(self._project())

    async def _unchanged(self) -> None:
        await self._look(self._project(), again=True)

    async def _fleet(self) -> None:
        """A job begins on many runners: they ask for the same page in the same words, one right after the other."""
        project = int(POPULAR * self._chance.random() ** 2)
        for _ in range(RUNNERS):
            await self._look(project, like=("json", "gzip"))

    async def _look(
        self, project: int, *, again: bool = False, like: tuple[str, str] | None = None
    ) -> tuple[int, ...]:
        """At its page: ``again`` for who has it, ``like`` the format and the coding."""
        media, coding = like or (self._chance.choice(("json", "json", "json", "html")), self._chance.choice(CODINGS))
        path, epoch = f"/simple/{name_of(project)}/", self._known.epoch
        least, _ = self._known.newest.get(project, (0, 0.0))
        known = self._known.pages.get((project, media, coding))
        headers = {"Accept": MEDIA[media], "Accept-Encoding": coding}
        if again and known is not None:
            headers["If-None-Match"] = known.etag
        got = await self.connection.ask(path, headers)
        if got.status == 304 and "If-None-Match" in headers and known is not None:
            numbers = known.numbers
        elif got.status == 200:
            same = known is not None and known.body == got.body
            here = partial(facts, files=self._place.files)
            numbers = known.numbers if known is not None and same else self._read(path, media, got, here)
        elif got.status == 404:
            raise Later("404")
        else:
            raise Wrong(f"{path}: {got.status}")
        if epoch == self._known.epoch:
            if numbers[-1] < least:
                told = {name: got.headers.get(name) for name in ("cache-status", "x-pypi-last-serial", "age", "date")}
                raise Wrong(f"{path}: an older page, {numbers} after {least}: {got.status}, {told}")
            newest, _ = self._known.newest.get(project, (0, 0.0))
            self._known.newest[project] = max(numbers[-1], newest), time.monotonic()
            if got.status == 200:
                self._known.pages[project, media, coding] = Page(got.body, got.headers["etag"], numbers)
        return numbers

    def _read(self, path: str, media: str, got: Got, facts_of: Callable[[int, int], Facts]) -> tuple[int, ...]:
        """The numbers of its releases. Raises Wrong unless every word of it is right."""
        name = path.split("/")[-2]
        text = Fetched(got.status, got.headers, got.body).decoded
        found: dict[str, str] = {}
        if media == "json":
            document = json.loads(text)
            if document["name"] != name:
                raise Wrong(f"{path}: the page of {document['name']}")
            found = {each["url"]: each["hashes"]["sha256"] for each in document["files"]}
        else:
            found = {html.unescape(link): sha256 for link, sha256 in _ANCHOR.findall(text.decode())}
        numbers = []
        for link, sha256 in found.items():
            place = unquote(urljoin(path, link))
            pair = number_of(place.rpartition("/")[2])
            if pair is None or name_of(pair[0]) != name:
                raise Wrong(f"{path}: lists {link}")
            right = facts_of(*pair)
            if (place, sha256) != (right.path, right.sha256):
                raise Wrong(f"{path}: lists {link} with {sha256}")
            numbers.append(pair[1])
        if numbers != list(range(numbers[0] if numbers else 0, (numbers[0] if numbers else 0) + WINDOW)):
            raise Wrong(f"{path}: lists {numbers}")
        return tuple(numbers)

    async def _some(self) -> tuple[int, int, Facts]:
        """A release that a page lists, but not its oldest one, which may be gone a moment later."""
        project = self._project()
        newest, seen = self._known.newest.get(project, (0, 0.0))
        if time.monotonic() - seen > FORGOTTEN_AFTER:
            newest = (await self._look(project))[-1]
        number = newest - min(int(self._chance.expovariate(1)), WINDOW - 2)
        return project, number, facts(project, number, self._place.files)

    async def _file(self) -> None:
        _, _, right = await self._some()
        await self._whole(right, self.connection)

    async def _whole(self, right: Facts, connection: Connection) -> None:
        got = self._found(right.path, await connection.ask(right.path))
        if hashlib.sha256(got.body).hexdigest() != right.sha256:
            raise Wrong(f"{right.path}: another body of {len(got.body)} bytes")

    async def _range(self) -> None:
        project, number, right = await self._some()
        start, stop = sorted(self._chance.sample(range(right.size), 2))
        headers = {"Range": f"bytes={start}-{stop - 1}"}
        got = self._found(right.path, await self.connection.ask(right.path, headers), 206)
        self._part(right.path, got, release(project, number).data, start, stop)

    async def _head(self) -> None:
        _, _, right = await self._some()
        got = self._found(right.path, await self.connection.ask(right.path, method="HEAD"))
        if got.headers.get("content-length") != str(right.size):
            raise Wrong(f"HEAD {right.path}: {got.headers}")

    async def _metadata(self) -> None:
        _, _, right = await self._some()
        got = self._found(right.path, await self.connection.ask(f"{right.path}.metadata"))
        if hashlib.sha256(got.body).hexdigest() != right.metadata_sha256:
            raise Wrong(f"{right.path}.metadata: another body: {got.body[:80]!r}")

    async def _document(self) -> None:
        project = self._project()
        path = f"/pypi/{name_of(project)}/json"
        document = json.loads(self._found(path, await self.connection.ask(path)).body)
        if document["info"]["name"] != name_of(project) or len(document["urls"]) != 1:
            raise Wrong(f"{path}: {document['info']}, {document['urls']}")
        for each in document["urls"]:
            pair = number_of(each["filename"])
            right = facts(*pair, self._place.files) if pair is not None else None
            place = unquote(urlsplit(each["url"]).path)
            if right is None or (place, each["digests"]["sha256"]) != (right.path, right.sha256):
                raise Wrong(f"{path}: {each}")

    async def _list(self) -> None:
        media = self._chance.choice(("json", "html"))
        got = self._found("/simple/", await self.connection.ask("/simple/", {"Accept": MEDIA[media]}))
        wanted = sorted(name_of(project) for project in range(self._place.projects))
        if media == "json":
            found = sorted(each["name"] for each in json.loads(got.body)["projects"])
        else:
            found = sorted(re.findall(r"<a\b[^>]*>([^<]+)</a>", got.body.decode()))
        if found != wanted:
            raise Wrong(f"/simple/: {len(found)} projects as {media}: {got.body[:200]!r}")

    async def _leaf(self, headers: Mapping[str, str] | None = None) -> None:
        number = self._chance.randrange(TREE)
        self._right_leaf(number, await self.connection.ask(f"/raw/tree/{number}", headers))

    async def _unchanged_leaf(self) -> None:
        number = self._chance.randrange(TREE)
        got = await self.connection.ask(f"/raw/tree/{number}", {"If-None-Match": f'"leaf-{number}"'})
        if got.status != 304:
            self._right_leaf(number, got)

    async def _range_of_leaf(self) -> None:
        number = self._chance.randrange(TREE)
        path, data = f"/raw/tree/{number}", leaf(number)
        start, stop = sorted(self._chance.sample(range(len(data)), 2))
        got = await self.connection.ask(path, {"Range": f"bytes={start}-{stop - 1}"})
        if got.status == 200:  # a cache need not keep parts
            self._right_leaf(number, got)
        else:
            self._part(path, self._found(path, got, 206), data, start, stop)

    async def _upload(self) -> None:
        data = self._chance.randbytes(3000)
        got = self._found("/raw/tree/mirror", await self.connection.ask("/raw/tree/mirror", {}, "POST", data))
        if got.body != data[::-1]:
            raise Wrong("/raw/tree/mirror: another body")

    async def _page_elsewhere(self) -> None:
        """Nothing is ever released there."""
        project, media = self._chance.randrange(PROJECTS), self._chance.choice(("json", "html"))
        path = f"/index/elsewhere/simple/{name_of(project)}/"
        got = self._found(path, await self.connection.ask(path, {"Accept": MEDIA[media]}))
        numbers = self._read(path, media, got, self._elsewhere)
        if numbers[0] != 1:
            raise Wrong(f"{path}: lists {numbers}")

    async def _file_elsewhere(self) -> None:
        right = self._elsewhere(self._chance.randrange(PROJECTS), self._chance.randint(1, WINDOW))
        await self._whole(right, self.connection)

    def _elsewhere(self, project: int, number: int) -> Facts:
        return facts(project, number, self._place.elsewhere, "elsewhere")

    async def _leaf_elsewhere(self) -> None:
        number = self._chance.randrange(TREE)
        path = f"/raw/other/{number}"
        self._right_leaf(number, await self.connection.ask(path), path)

    async def _missing(self) -> None:
        path = f"/simple/nobody-{self._chance.randrange(50)}/"
        self._status(path, await self.connection.ask(path), 404)

    async def _moved(self) -> None:
        path = f"/simple/{name_of(self._project()).title().replace('-', '_')}/"
        self._status(path, await self.connection.ask(path), 301)

    async def _refused(self) -> None:
        path, method, status = self._chance.choice(_REFUSED)
        self._status(path, await self.connection.ask(path, method=method), status)

    async def _operation(self) -> None:
        path = self._chance.choice(("/healthz", "/healthz", "/readyz", "/metrics", "/"))
        self._status(path, await self.connection.ask(path, {"Accept": "text/html"} if path == "/" else None), 200)

    async def _admin(self) -> None:
        name = name_of(self._project())
        path, method, body = self._chance.choice(
            (
                ("/admin/cache/info", "GET", b""),
                ("/admin/cache/list?limit=50", "GET", b""),
                (f"/admin/cache/list?pattern={name}", "GET", b""),
                (f"/admin/cache/explain?path=/simple/{name}/", "GET", b""),
                ("/admin/cache/refresh", "POST", json.dumps({"project": name}).encode()),
            )
        )
        headers = {"Authorization": f"Bearer {self._place.token}", "Content-Type": "application/json"}
        got = self._found(path, await self.connection.ask(path, headers, method, body))
        json.loads(got.body)

    async def _leave(self) -> None:
        """Gone before the end: after some bytes, or none."""
        _, _, right = await self._some()
        path = self._chance.choice((right.path, "/simple/", f"/raw/tree/{TREE - 1}"))
        self._tally.requests += 1
        try:
            reader, writer = await asyncio.open_connection(self._place.host, self._place.port)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: soak.example.com\r\n\r\n".encode())
                async with asyncio.timeout(2):
                    await reader.read(self._chance.choice((1, 1000, 30_000)))
            finally:
                writer.transport.abort() if self._chance.random() < 0.5 else writer.close()
        except ConnectionRefusedError:
            raise Later("refused") from None
        except OSError:
            return  # who leaves has lost nothing; TimeoutError is one, too

    async def _slowly(self) -> None:
        """A file on a bad line."""
        _, _, right = await self._some()
        connection = Connection(self._place, self._tally)
        connection.hold = 0.02
        try:
            await self._whole(right, connection)
        finally:
            connection.close()

    def _right_leaf(self, number: int, got: Got, path: str = "") -> None:
        path = path or f"/raw/tree/{number}"
        if self._found(path, got).body != leaf(number):
            raise Wrong(f"{path}: another body of {len(got.body)} bytes")

    def _part(self, path: str, got: Got, data: bytes, start: int, stop: int) -> None:
        told = got.headers.get("content-range")
        if got.body != data[start:stop] or told != f"bytes {start}-{stop - 1}/{len(data)}":
            raise Wrong(f"{path}: {start} to {stop} of {len(data)}: {told}, {len(got.body)} bytes")

    def _found(self, path: str, got: Got, status: int = 200) -> Got:
        """An answer that has that status."""
        if got.status == 404 or (got.status in PASSED_ON and path.startswith("/raw/")):
            # What the upstream said.
            raise Later(f"{got.status}")
        self._status(path, got, status)
        return got

    def _status(self, path: str, got: Got, status: int) -> None:
        if got.status != status:
            raise Wrong(f"{path}: {got.status} instead of {status}: {got.body[:200]!r}")


_REFUSED: Sequence[tuple[str, str, int]] = (
    ("/nothing", "GET", 404),
    ("/simple/soak-1/", "DELETE", 405),
    ("/simple/..%2f/", "GET", 400),
    ("/files/test/example.com/packages/nobody/nobody-1.0.tar.gz", "GET", 404),
    ("/admin/cache/info", "GET", 401),
)

