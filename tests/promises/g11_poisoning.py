"""Whatever a client puts around its question: the upstream is asked in the same words, and there is one answer."""

from __future__ import annotations

import random
import re
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from tests.harness.exchange import Seen
from tests.harness.origin import Told
from tests.harness.packages import Distribution, wheel
from tests.harness.server import ProxyServer
from tests.harness.upstream import Upstream
from tests.harness.wire import Wire
from tests.promises.mutations import MARK, request
from tests.promises.promise import Measured, Promise, Size

PROMISE = Promise(
    "G11", "poisoning", "10,000 mutated headers, parameters, paths: upstream requests byte-identical, no second key"
)
CASES = {"ci": 2_000, "long": 10_000}
PROJECT = "well-known"
ACCEPTS = ("application/vnd.pypi.simple.v1+json", "application/vnd.pypi.simple.v1+html", "text/html")
CODINGS = ("identity", "gzip", "zstd")
# One page, list and document, in all their spellings.
PAGE = ("simple/well-known/", "simple/well-known", "simple/Well_Known/", "index/test/simple/well-known/")
LIST = ("simple/", "index/test/simple/")
JSON = ("pypi/well-known/json", "pypi/Well.Known/json", "simple/pypi/well-known/json", "index/test/well-known/json")


@dataclass(frozen=True, slots=True)
class Target:
    """``head`` and one of ``tails`` make its path; ``odds`` are those of a query, which no file has."""

    head: str
    tails: Sequence[str]
    odds: float = 0.7


def targets(upstream: Upstream, files: Sequence[Distribution]) -> list[Target]:
    """What is asked about, in turn: every file and its metadata while nobody has asked for them yet."""
    found = []
    for each in files:
        host, _, path = upstream.location(each).partition("/")
        places = [f"{spelled}/{path}" for spelled in (host, host.replace(":", "%3A"), host.replace(":", "%3a"))]
        found.append(Target("/files/test/", places, 0.1))
        found.append(Target("/files/test/", [f"{place}.metadata" for place in places], 0.1))
        found += [Target("/", each) for each in (PAGE, PAGE, JSON, LIST)]
    return found


def plain(path: str, accept: str = ACCEPTS[0], coding: str = "identity") -> bytes:
    """The same question with nothing around it."""
    return f"GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nAccept-Encoding: {coding}\r\n\r\n".encode()


def wordings(log: Sequence[Seen]) -> Counter[bytes]:
    """What the upstream was asked, byte for byte but for the number in a file's name."""
    return Counter(re.sub(rb"(?<=/well_known-)\d+\.0", b"N", each.raw) for each in log)


def keys(cache: Path) -> frozenset[str]:
    """Of every row. The server has ended."""
    found = set()
    for room in ("responses", "wheels"):
        with closing(sqlite3.connect(cache / room / "cache.db")) as opened:
            found |= {str(key) for (key,) in opened.execute("SELECT key FROM Cache")}
    return frozenset(found)


def of_files(upstream: Upstream, files: Sequence[Distribution]) -> frozenset[str]:
    """The one key of each file, of its metadata, and of that in its codings."""
    found = set()
    for each in files:
        found.add(f"file|test|{upstream.location(each)}|sha256={each.sha256}")
        key = f"metadata|test|{upstream.location(each)}|sha256={each.metadata_sha256}"
        found |= {key, *(f"{key}|{each.metadata_sha256}|{coding}" for coding in ("gzip", "zstd"))}
    return frozenset(found)


def told_all(wire: Wire, upstream: Upstream, file: Distribution) -> dict[str, tuple[int, bytes]]:
    """What plain clients get, in every representation."""
    location = f"/files/test/{upstream.location(file)}"
    wire.ask(plain(f"{location}.metadata").replace(b"GET", b"HEAD"), "HEAD")
    told = {path: wire.ask(plain(path)) for path in (location, f"{location}.metadata")}
    for path, accept, coding in product(
        (PAGE[0], PAGE[-1], LIST[0], LIST[-1], JSON[0], JSON[-1]), ACCEPTS, CODINGS
    ):
        told[f"{path} {accept} {coding}"] = wire.ask(plain(f"/{path}", accept, coding))
    assert {each.status for each in told.values()} == {200}, {path: each.status for path, each in told.items()}
    return {path: (each.status, each.body) for path, each in told.items()}


def reflected(told: Told) -> bool:
    """Does it say anything of what only the request said? A redirect does: it keeps ``?format=``. And the JSON API's
    document has whole URLs, of the host that was asked for: that is the one that is told, and not kept."""
    fields = [value for name, value in told.lines if name.lower() not in ("location", "content-length")]
    body = "" if (told.header("content-type") or "") == "application/json" else told.body.decode("latin-1")
    return any(MARK in each for each in (*fields, body))


def kept_of_requests(cache: Path) -> list[str]:
    """Files of the cache in which something of a request lies."""
    every = (path for path in cache.rglob("*") if path.is_file())
    return [str(path.relative_to(cache)) for path in every if MARK.encode() in path.read_bytes()]


def measure(size: Size, directory: Path) -> Measured:
    """One server, one connection: every request waits for the one before it."""
    number = CASES[size]
    files = [wheel("well-known", f"{each}.0") for each in range(2 + number // 6)]
    with Upstream(*files) as upstream:
        # Nothing lives, so that every request for a page goes to the upstream.
        upstream.index.validators = False
        upstream.index.page_cache_control = upstream.index.json_cache_control = "max-age=0"
        proxy = ProxyServer(
            directory,
            {"test": upstream.url},
            settings={
                "freshness": {"min_reload_interval": "0s", "stale_after": "60s"},
                "limits": {"breaker_failures": 1_000_000, "rest_max": "0s"},
            },
        )
        with proxy, Wire(proxy.host, proxy.port) as wire:
            before, expected = told_all(wire, upstream, files[0]), wordings(upstream.log)
            assert proxy.terminate() == 0
        known = keys(proxy.cache)
        upstream.forget()
        with proxy, Wire(proxy.host, proxy.port) as wire:
            chance, told = random.Random(11), list[Told]()
            for target in targets(upstream, files[1:])[:number]:
                told.append(wire.ask(*request(target.head, target.tails, target.odds, chance)))
            asked = wordings(upstream.log)
            after = told_all(wire, upstream, files[0])
            assert proxy.terminate() == 0
    assert asked.total() >= number / 3, f"only {asked.total()} of {number} requests went to the upstream"
    others, extra = set(asked) - set(expected), keys(proxy.cache) - known - of_files(upstream, files)
    found = {
        "other upstream requests": sorted(others)[:2],
        "other keys": sorted(extra)[:3],
        "answers to plain clients that changed": sum(before[path] != after[path] for path in before),
        "answers that say something of the request": sum(map(reflected, told)),
        "files of the cache with something of a request": kept_of_requests(proxy.cache),
    }
    figure = f"{number:,} mutations, {asked.total():,} upstream requests: {len(others)} others, {len(extra)} keys more"
    return Measured(figure, tuple(f"{name}: {value}" for name, value in found.items() if value))
