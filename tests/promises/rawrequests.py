"""Requests as nobody should write them: good ones whose bytes were changed, on raw connections.

Whatever comes, the server answers or closes within seconds, never with a fault of its own, and the next one is served.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.harness.aftermath import Aftermath, control
from tests.harness.packages import sdist, wheel
from tests.harness.world import World, world

AT_ONCE = 100
QUIET = 0.25
"""Seconds without a byte after which a client says that it has nothing more to say."""
WITHIN = 20.0
_STATUS = re.compile(rb"(?:^|\n)HTTP/1\.[01] ([0-9]{3}) ")
_SPLICES = (
    *(b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b"%00", b"%2e%2e/", b"//", b"\\", b"#", b"?", b"@"),
    *(b"\xff", b"\xc3\xa9"),
    *(b"GET ", b"POST ", b"OPTIONS * HTTP/1.1\r\n", b"CONNECT x:1 HTTP/1.1\r\n", b" HTTP/1.0\r\n"),
    *(b" HTTP/9.9\r\n", b"http://"),
    *(b"Host: y\r\n", b"Content-Length: 5\r\n", b"Content-Length: -1\r\n", b"Transfer-Encoding: chunked\r\n"),
    b"0\r\n\r\n",
    *(b"Transfer-Encoding: gzip\r\n", b"Expect: 100-continue\r\n", b"Upgrade: h2c\r\n", b"Connection: keep-alive\r\n"),
    *(b"Range: bytes=0-0,5-6\r\n", b"If-None-Match: *\r\n", b"Accept: ;q=,\r\n"),
    *(b"Accept-Encoding: *;q=0\r\n", b"ffffffffffffffff\r\n"),
    *(b"X-Long: " + b"x" * 9000 + b"\r\n", b"X: y\r\n" * 200, b"/" + b"a" * 5000, b"\r\n folded: x\r\n"),
)


@dataclass(slots=True)
class Outcome:
    """What became of them: how often each status was said, and what should never have been."""

    statuses: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def seeds(here: World, paths: Sequence[str]) -> list[bytes]:
    """Requests as they should be, of every route."""
    fields = "Host: x\r\nAccept: application/vnd.pypi.simple.v1+json\r\nAccept-Encoding: gzip\r\n"
    more = 'If-None-Match: "x"\r\nRange: bytes=0-9\r\nCache-Control: max-age=0\r\nUser-Agent: pip/24.0\r\n'
    made = []
    for path in paths:
        made.append(f"GET {path} HTTP/1.1\r\n{fields}Connection: close\r\n\r\n")
        made.append(f"HEAD {path} HTTP/1.1\r\n{fields}{more}\r\nGET {path} HTTP/1.0\r\n\r\n")
    token = here.proxy.settings["admin"]["token"]
    body = '{"pattern": "nothing", "dry_run": true}'
    framed = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    made.append(f"POST /admin/cache/remove HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{framed}")
    made.append(f"POST /raw/tree/upload HTTP/1.1\r\nHost: x\r\n{framed}")
    chunks = "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3;a=b\r\n123\r\n0\r\nTrailer: x\r\n\r\n"
    made.append(f"PUT /raw/tree/upload HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n{chunks}")
    return [each.encode() for each in made]


def changed(luck: random.Random, good: Sequence[bytes]) -> bytes:
    """One of the good ones, with one to six things done to it."""
    data = bytearray(luck.choice(good))
    for _ in range(luck.randint(1, 6)):
        at = luck.randrange(len(data) + 1)
        end = min(len(data), at + luck.choice((1, 1, 2, 8, 40, 300)))
        match luck.randrange(8):
            case 0 if at < len(data):
                data[at] ^= 1 << luck.randrange(8)
            case 1 if at < len(data):
                data[at] = luck.randrange(256)
            case 2:
                del data[at:end]
            case 3:
                data[at:at] = data[at:end] * luck.choice((1, 2, 30))
            case 4:
                other = luck.choice(good)
                data[at:] = other[luck.randrange(len(other)) :]
            case 5:
                del data[at:]
            case _:
                data[at:at] = luck.choice(_SPLICES)
    return bytes(data)


async def send(here: World, data: bytes, luck: random.Random, outcome: Outcome) -> None:
    """One connection: the bytes in one to three pieces, and whatever comes back."""
    reader, writer = await asyncio.open_connection(here.proxy.host, here.proxy.port)
    got = b""
    try:
        async with asyncio.timeout(WITHIN):
            cuts = sorted(luck.randrange(len(data) + 1) for _ in range(luck.randrange(3)))
            for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True):
                writer.write(data[start:stop])
                await writer.drain()
            with contextlib.suppress(TimeoutError):
                while piece := await asyncio.wait_for(reader.read(65536), QUIET):
                    got += piece
            writer.write_eof()
            got += await reader.read()
    except TimeoutError:
        outcome.faults.append(f"nothing within {WITHIN} s of {data[:300]!r}")
    except OSError:
        pass  # it was cut off: nobody has to read all that a stranger sends
    finally:
        writer.close()
    # A body of ours holds no status line; what an upstream says might, and is in the log as well.
    for status in map(int, _STATUS.findall(got)):
        outcome.statuses[status] += 1


async def _all(here: World, good: Sequence[bytes], number: int) -> Outcome:
    outcome, luck = Outcome(), random.Random(14)
    left = iter(range(number))

    async def some() -> None:
        for _ in left:
            await send(here, changed(luck, good), luck, outcome)

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))
    return outcome


def sent(directory: Path, number: int) -> tuple[Counter[int], list[str]]:
    """So many of them to a server of their own: the statuses that came, and what should not have been."""
    files = [wheel("alpha", "1.0"), sdist("beta")]
    settings = {"admin": {"token": "t" * 40}}
    with world(directory, settings, mounts=lambda upstream: {"tree": f"{upstream.origin}/simple/"}) as here:
        here.publish(*files)
        pages = [f"/simple/{file.project}/" for file in files]
        paths = [*pages, *map(here.path_of, files), "/simple/", "/raw/tree/alpha/", "/pypi/alpha/json", "/metrics", "/"]
        for path in paths:
            assert here.get(path).status == 200
        good = seeds(here, [*paths, f"{paths[2]}.metadata", "/simple/None/"])
        aftermath = Aftermath(here.proxy, *control(here))
        outcome = asyncio.run(_all(here, good, number))
        aftermath.settled()
        faults = outcome.faults + uncaught(here)
    return outcome.statuses, faults


def uncaught(here: World) -> list[str]:
    """What the server itself says went wrong: answers that are its own fault, and tracebacks."""
    # 505 is what RFC 9110 has for a version that is not spoken: a request's fault, whatever its number says.
    lines = [line for line in here.proxy.log_lines() if line["status"] >= 500 and line["status"] != 505]
    told = [f"{line['status']} for {line['method']} {line['path']}: {line.get('because')}" for line in lines]
    if "Traceback" in here.proxy.stderr:
        told.append(f"a traceback: {here.proxy.stderr.partition('Traceback')[2][-1000:]}")
    return told + [str(line) for line in here.proxy.log_lines(None) if line.get("level") == "error"]
