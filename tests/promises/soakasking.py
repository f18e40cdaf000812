"""How the clients of the long day ask: over connections that stay open, and again, as pip does, after an honest no."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

RETRIES = 5
"""As often pip asks again, unless it is told otherwise."""
BACKOFF = 0.25
"""Its seconds before the second time it does so; twice as many before each one after that."""
PATIENCE = 30.0
"""Seconds that an answer may take, whatever an upstream does."""
RESTARTED = 60.0
"""Seconds within which a server that refuses connections is one that is being restarted."""

_DETAIL = re.compile(r'detail="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Place:
    """Where everything is: the server, its admin token, and the hosts of files as its paths spell them, that of the
    index "elsewhere" too. ``clients`` ask at one time, among ``projects``."""

    host: str
    port: int
    token: str
    files: str
    elsewhere: str
    projects: int
    clients: int
    seed: int


@dataclass(frozen=True, slots=True)
class Got:
    """One answer, all of it. Header names are lower-case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Later(Exception):
    """An honest no: ``why``, and the seconds to wait if the server said so."""

    def __init__(self, why: str, after: float | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.after = after


class Wrong(Exception):
    """An answer that must never be."""


@dataclass(slots=True)
class Tally:
    """What came of it: ``requests`` all that were asked, ``wishes`` what was wanted, each with as many requests as it
    took; ``at_once`` got it with the first one. ``later`` counts the honest noes. Of the wishes that ended with one,
    ``denied`` are those for what nobody had got before: it had to come from an upstream that failed each time.
    ``unserved`` are the others, whose answer is kept. ``wrong`` says what must never be."""

    requests: int = 0
    wishes: int = 0
    at_once: int = 0
    received: int = 0
    asked: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    later: Counter[str] = field(default_factory=Counter)
    denied: Counter[str] = field(default_factory=Counter)
    unserved: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class Connection:
    """A connection that is kept open for the next request, and opened again where it was closed."""

    def __init__(self, place: Place, tally: Tally) -> None:
        self.place = place
        self.tally = tally
        self.hold = 0.0
        """Seconds to wait before each piece of a body is read."""
        self.asked, self.asked_at = "", 0.0
        """The path of the last request, and when it began."""
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(
        self, path: str, headers: Mapping[str, str] | None = None, method: str = "GET", body: bytes = b""
    ) -> Got:
        """The answer. Raises Later where none came, or not all of it, and Wrong where it took too long."""
        fields = {"Host": "soak.example.com", **(headers or {}), **({"Content-Length": str(len(body))} if body else {})}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self.tally.requests += 1
        self.asked, self.asked_at = path, time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE):
                got = await self._exchange(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body, method)
        except TimeoutError:
            self.close()
            raise Wrong(f"{method} {path}: no answer within {PATIENCE} s") from None
        except (OSError, asyncio.IncompleteReadError) as error:
            self.close()
            refused = isinstance(error, ConnectionRefusedError)
            raise Later("refused" if refused else "cut") from None
        self.tally.statuses[got.status] += 1
        self.tally.received += len(got.body)
        if got.status in (502, 503):
            because = _DETAIL.search(got.headers.get("cache-status", ""))
            after = got.headers.get("retry-after")
            raise Later(f"{got.status}, {because and because[1]}", None if after is None else float(after))
        return got

    def close(self) -> None:
        """Ends it; the next request opens a new one."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    async def _exchange(self, question: bytes, method: str) -> Got:
        if self._streams is not None and self._streams[0].at_eof():
            self.close()
        if self._streams is None:
            self._streams = await asyncio.open_connection(self.place.host, self.place.port, limit=256 * 1024)
        reader, writer = self._streams
        writer.write(question)
        head = await reader.readuntil(b"\r\n\r\n")
        line, *fields = head[:-4].decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in fields)}
        status = int(line[9:12])
        body = b""
        if method != "HEAD" and status not in (204, 304):
            body = await self._body(reader, headers)
        if headers.get("connection", "").lower() == "close":
            self.close()
        return Got(status, headers, body)

    async def _body(self, reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
        if "content-length" in headers:
            return await self._exactly(reader, int(headers["content-length"]))
        assert headers.get("transfer-encoding") == "chunked", headers
        pieces = []
        while size := int(await reader.readuntil(b"\r\n"), 16):
            pieces.append((await reader.readexactly(size + 2))[:-2])
        await reader.readexactly(2)
        return b"".join(pieces)

    async def _exactly(self, reader: asyncio.StreamReader, count: int) -> bytes:
        if not self.hold:
            return await reader.readexactly(count)
        pieces = []
        for start in range(0, count, 64 * 1024):
            await asyncio.sleep(self.hold)
            pieces.append(await reader.readexactly(min(64 * 1024, count - start)))
        return b"".join(pieces)


Wish = Callable[[], Awaitable[None]]


class Rest:
    """Lets clients pause, and tells when all do."""

    def __init__(self) -> None:
        self.going = asyncio.Event()
        self.going.set()
        self.ended = False
        self.busy = 0

    async def pause(self) -> None:
        """Returns once nobody is busy any more."""
        self.going.clear()
        while self.busy:  # noqa: ASYNC110 - in a process of its own, every few minutes
            await asyncio.sleep(0.01)


async def granted(kind: str, wish: Wish, tally: Tally, rest: Rest, had: Callable[[str], bool]) -> None:
    """One wish: as many requests as it takes, or as pip has patience for. ``had``: somebody got that before
    it was asked for the last time."""
    tally.wishes += 1
    tally.asked[kind] += 1
    attempt, refused, later, known = 0, time.monotonic() + RESTARTED, Later(""), False
    while attempt <= RETRIES:
        rest.busy += 1
        try:
            await wish()
            tally.at_once += attempt == 0
            return
        except Later as no:
            tally.later[f"{kind}: {no.why}"] += 1
            later, known = no, had(kind)
        except Wrong as wrong:
            tally.wrong.append(f"{kind}: {wrong}")
            return
        finally:
            rest.busy -= 1
        # How long a start takes is promised elsewhere; on a busy machine pip would give up on it.
        if later.why != "refused" or time.monotonic() > refused:
            attempt += 1
        # urllib3 begins with nothing, then 2 ** n; a Retry-After goes before that.
        await asyncio.sleep(BACKOFF * 2**attempt if later.after is None else later.after)
        await rest.going.wait()
    (tally.unserved if known else tally.denied)[f"{kind}: {later.why}"] += 1
