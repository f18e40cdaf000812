"""What was said to one is never told to another: between indexes, and between clients of a mount."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.harness.bodies import Held
from tests.harness.exchange import Reply, Seen
from tests.harness.fetch import fetch
from tests.harness.index import JSON_V1, Index
from tests.harness.server import ProxyServer
from tests.harness.shapes import basic
from tests.harness.upstream import Upstream
from tests.harness.wire import Wire
from tests.promises.promise import Measured, Promise, Size

PROMISE = Promise("G12", "isolation", "10,000 interleaved requests of 3 credential classes: 0 crossings")
CASES = {"ci": 2_400, "long": 10_000}
CLIENTS = 12
# Each place is asked about so often, by all kinds of clients, before there are new ones.
TURN = 120
WHO: Mapping[str, str | None] = {"nobody": None, "alice": basic("alice", "s3cret"), "bob": "Bearer bobs-token"}
COOKIES: Mapping[str, str | None] = {"nobody": None, "alice": "session=alice", "bob": "session=bob"}
# What an origin may say about an answer that is for one client alone. RFC 9111 §3.5: with one of the last four a cache
# may give what was answered to a request with Authorization to others, if Vary does not say that they are others.
LIVES: tuple[tuple[tuple[str, str], ...], ...] = (
    (("Cache-Control", "max-age=600"),),
    (("Cache-Control", "max-age=600"), ("ETag", '"same"')),
    (("Cache-Control", "private, max-age=600"), ("Vary", "Cookie")),
    (("Cache-Control", "no-store"),),
    (("Cache-Control", "public, max-age=600"), ("Vary", "Authorization")),
    (("Cache-Control", "s-maxage=600"), ("Vary", "Accept, Authorization")),
    (("Cache-Control", "max-age=0, must-revalidate, public"), ("Vary", "authorization")),
    (("Cache-Control", "public, max-age=600"), ("Vary", "Cookie")),
    (("Cache-Control", "public, max-age=600"), ("X-For", "everyone")),
)
FOR_EVERYONE = len(LIVES) - 1
"""That one is told to others, for its origin says that it may: it shows that crossings would be seen."""


@dataclass(slots=True)
class Personal(Index):
    """Says on every path who is asking. ``seen`` counts what came with credentials to where none belong."""

    strays: Counter[str] = field(default_factory=Counter)

    def reply(self, seen: Seen) -> Reply:
        """By the Authorization alone, where Vary is not just about cookies."""
        known = {value: name for name, value in WHO.items()}
        who = known.get(seen.headers.get("authorization"), "a stranger")
        if seen.path.startswith("/plain/") and (who != "nobody" or "cookie" in seen.headers):
            self.strays[seen.path] += 1
        if asked := re.fullmatch(r"/simple/([^/]+)/", seen.path):
            return self._page_for(who, asked[1])
        lines: tuple[tuple[str, str], ...] = (("Cache-Control", "max-age=600"),)
        if found := re.match(r"/(?:keys|plain)/(\d)", seen.path):
            lines = LIVES[int(found[1])]
            if lines[-1] == ("Vary", "Cookie"):
                who = (seen.headers.get("cookie") or "=nobody").partition("=")[2]
        return Reply(200, lines, Held(said(who, seen.path)))

    def _page_for(self, who: str, project: str) -> Reply:
        path = f"/packages/{project}-1.0-py3-none-any.whl"
        file = {"filename": path.rpartition("/")[2], "url": path, "hashes": {"sha256": sha256(said(who, path))}}
        document = {"meta": {"api-version": "1.0"}, "name": project, "files": [file], "_for": f"for {who}."}
        headers = (("Content-Type", JSON_V1), ("Cache-Control", "max-age=600"))
        return Reply(200, headers, Held(json.dumps(document).encode()))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def said(who: str, path: str) -> bytes:
    """A body that says for whom it is; every other one is large enough to be kept as a file."""
    text = f"for {who}. {path} "
    return (text * (2_000 if sum(path.encode()) % 2 else 1)).encode()


@dataclass(frozen=True, slots=True)
class Question:
    """``asker`` is who the client says that it is, ``meant`` for whom the answer has to be, None for anybody."""

    path: str
    asker: str
    meant: str | None

    @property
    def kind(self) -> str:
        """Pages or files of an index, or a mount."""
        return "/".join(self.path.split("/")[1:3])

    def request(self, extra: str) -> bytes:
        """As it is sent."""
        lines = [f"GET {self.path} HTTP/1.1", "Host: x", f"Accept: {JSON_V1}, */*", extra]
        lines += [f"Authorization: {WHO[self.asker]}", f"Cookie: {COOKIES[self.asker]}"] if WHO[self.asker] else []
        return "".join(f"{line}\r\n" for line in lines if line).encode() + b"\r\n"


def questions(number: int, host: str) -> list[Question]:
    """So many, of all classes about the same places, in no order. A client's own credentials make no difference at an
    index, and none are passed on by a mount that was not told to."""
    chance, found = random.Random(12), list[Question]()
    while len(found) < number:
        turn, some = len(found), list[Question]()
        file = f"{host}/packages/p{turn}-1.0-py3-none-any.whl"
        for asker in WHO:
            for index in WHO:
                some.append(Question(f"/index/{index}/simple/p{turn}/", asker, index))
                some.append(Question(f"/files/{index}/{file}", asker, index))
            for life in range(len(LIVES)):
                meant = None if life == FOR_EVERYONE else asker
                some.append(Question(f"/raw/keys/{life}/{turn}", asker, meant))
                some.append(Question(f"/raw/plain/{life}/{turn}", asker, "nobody"))
        found += chance.choices(some, k=TURN)
    return found[:number]


def for_whom(body: bytes) -> str:
    """Whose answer it is."""
    found = re.search(rb"for ([a-z ]+)\.", body)
    return found[1].decode() if found else "?"


def asked(proxy: ProxyServer, chosen: list[Question]) -> tuple[list[str], Counter[str], int]:
    """What went wrong, the hits of each kind, and how many answers for everyone were somebody else's."""
    wrong, hits, shared = list[str](), Counter[str](), list[str]()

    def work(first: int) -> None:
        chance = random.Random(first)
        with Wire(proxy.host, proxy.port) as wire:
            for question in chosen[first::CLIENTS]:
                extra = chance.choice(("", "", "", "Cache-Control: no-cache", "Cache-Control: max-age=0"))
                told = wire.ask(question.request(extra))
                if told.status != 200 or not told.whole:
                    wrong.append(f"{told.status} for {question}")
                elif (whose := for_whom(told.body)) != (question.meant or question.asker):
                    (wrong if question.meant else shared).append(f"the answer for {whose} was told: {question}")
                hits[question.kind] += told.hit

    with ThreadPoolExecutor(CLIENTS) as pool:
        for job in [pool.submit(work, first) for first in range(CLIENTS)]:
            job.result()
    return wrong, hits, len(shared)


def measure(size: Size, directory: Path) -> Measured:
    """Three indexes with the same projects, files and host, and two mounts, asked by three kinds of clients at once."""
    index = Personal()
    with Upstream(index=index) as upstream:
        direct = [
            fetch(f"{upstream.origin}/keys/0", {} if value is None else {"Authorization": value}).body
            for value in WHO.values()
        ]
        assert list(map(for_whom, direct)) == list(WHO), "the upstream does not tell its clients apart"
        (directory / "password").write_text("s3cret")
        (directory / "token").write_text("bobs-token")
        proxy = ProxyServer(
            directory,
            {
                "nobody": upstream.url,
                "alice": {"url": upstream.url, "username": "alice", "password_file": str(directory / "password")},
                "bob": {"url": upstream.url, "token_file": str(directory / "token")},
            },
            mounts={
                "keys": {"url": f"{upstream.origin}/keys/", "pass_credentials": True},
                "plain": {"url": f"{upstream.origin}/plain/"},
            },
            settings={"limits": {"breaker_failures": 1_000_000, "rest_max": "0s"}, "freshness": {"stale_after": "60s"}},
        )
        chosen = questions(CASES[size], upstream.origin.partition("://")[2])
        with proxy:
            wrong, hits, shared = asked(proxy, chosen)
    wrong += [f"credentials were passed on: {path}" for path in index.strays]
    silent = {each.kind for each in chosen} - set(+hits)
    assert not silent, f"nothing is ever a hit: {silent}"
    assert shared, "what is for everyone was never told to others: crossings would not be seen"
    crossings = sum("was told" in each or "passed on" in each for each in wrong)
    figure = f"{len(chosen):,} requests, {hits.total():,} hits: {crossings} crossings"
    return Measured(figure, (f"{len(wrong)} wrong answers: {'; '.join(wrong[:3])}",) if wrong else ())
