"""What would happen to a request now, and because of what: the questions of the real path, asked of nobody upstream.

Nothing is sent, kept, made or forgotten by asking, and nobody is waited for.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import assert_never

from proxy.answer import Answer, moved
from proxy.core import decide
from proxy.core.freshness import assess
from proxy.core.lifetime import SERIAL
from proxy.core.messages import (
    KEPT,
    Entry,
    FileTarget,
    JsonTarget,
    ListTarget,
    Moved,
    NotHere,
    PageTarget,
    RawTarget,
    Request,
    Rules,
)
from proxy.errors import ProxyError, Refused
from proxy.foretold import Decision, Explanation, ListedFile, Stored
from proxy.mounts import alone
from proxy.plan import strongest
from proxy.unasked import Rooms, Unasked, Wish
from proxy.wanted import Wanted, room_of

_UNLISTED = "no page that is known lists that file"
_DOUBTED = "the last body of that file was wrong, so its page is looked at first"


class Explanations:
    """Explains requests for the data plane. ``rules`` are those of pages and lists; ``fetch_max`` and ``clock`` as the
    rooms have them."""

    def __init__(self, rooms: Rooms, *, rules: Rules, fetch_max: int, clock: Callable[[], float]) -> None:
        self._rooms = rooms
        self._rules = rules
        self._fetch_max = fetch_max
        self._clock = clock

    async def explain(self, request: Request) -> Explanation:
        """What would become of that request. Raises nothing for what would be refused: that is explained, too."""
        rooms = Unasked(self._rooms, rules=self._rules, fetch_max=self._fetch_max, clock=self._clock)
        plain = Explanation(request.method, request.path, "nothing", "refuse", "")
        try:
            match request.target:
                case PageTarget(index, project) as target:
                    plain = replace(plain, kind="page", index=index, project=project)
                    return await self._page(rooms, request, target, plain)
                case ListTarget(index) as target:
                    return await self._list(rooms, request, target, replace(plain, kind="list", index=index))
                case JsonTarget(index, project) as target:
                    plain = replace(plain, kind="json", index=index, project=project)
                    return await self._document(rooms, request, target, plain)
                case FileTarget(index) as target:
                    plain = replace(plain, kind="metadata" if target.metadata else "file", index=index)
                    return await self._file(rooms, request, target, plain)
                case RawTarget(mount) as target:
                    return await self._raw(rooms, request, target, replace(plain, kind="raw", index=mount))
                case Moved(location):
                    return replace(_told(replace(plain, kind="moved"), moved(location)), decision="moved")
                case NotHere(because):
                    return refused(plain, Refused(because, status=404))
                case _:
                    assert_never(request.target)
        finally:
            await rooms.close()

    async def _page(self, rooms: Unasked, request: Request, target: PageTarget, plain: Explanation) -> Explanation:
        plain = self._with(plain, await rooms.lookups.known(target), self._rules)
        try:
            _, _, before = await rooms.pages.before(request, target)
        except Refused as refusal:
            return refused(plain, refusal)
        return await _decided(rooms, plain, before, rooms.pages.answer(request, target))

    async def _list(self, rooms: Unasked, request: Request, target: ListTarget, plain: Explanation) -> Explanation:
        try:
            _, entry, before = await rooms.lists.before(request, target)
        except Refused as refusal:
            return refused(plain, refusal)
        # A form that is not made yet would be made for a GET: its answer has the same head.
        answer = rooms.lists.answer(replace(request, method="HEAD"), target)
        return await _decided(rooms, self._with(plain, entry, self._rules), before, answer)

    async def _document(self, rooms: Unasked, request: Request, target: JsonTarget, plain: Explanation) -> Explanation:
        try:
            (entry, _), before = await rooms.json_api.before(request, target)
        except Refused as refusal:
            return refused(plain, refusal)
        plain = self._with(plain, entry, rooms.json_api.rules)
        return await _decided(rooms, plain, before, rooms.json_api.answer(request, target))

    async def _raw(self, rooms: Unasked, request: Request, target: RawTarget, plain: Explanation) -> Explanation:
        entry, before = await rooms.mounts.before(request, target)
        plain = self._with(plain, entry, rooms.mounts.rules_of(target))
        if isinstance(before, decide.Fetch | decide.Revalidate) and alone(request, before):
            before = decide.Pass(before.because)
        told = await _decided(rooms, plain, before, rooms.mounts.answer(request, target))
        return replace(told, under_way=told.asks_upstream and self._rooms.mounts.looks_at(target))

    async def _file(self, rooms: Unasked, request: Request, target: FileTarget, plain: Explanation) -> Explanation:
        answer = rooms.metadata.answer if target.metadata else rooms.files.answer
        plain = await _answered(plain, answer(request, target))
        wish = rooms.wishes.first
        with suppress(ProxyError):
            listed = await rooms.listings.find(request, target)
            entry = await rooms.store.entry(room_of(target), listed.key)
            plain = self._with(_listed(plain, listed), entry, replace(self._rules, immutable=True))
        if wish is None:
            return plain
        if wish.what == "page":
            return _asking(plain, wish, "look", _UNLISTED if plain.listed is None else _DOUBTED)
        decision: Decision = "relay" if wish.what == "range" else "fetch"
        return _asking(plain, wish, decision, "not cached")

    def _with(self, plain: Explanation, entry: Entry | None, rules: Rules) -> Explanation:
        """With what is kept, when something is."""
        if entry is None:
            return plain
        head, own = entry.head, assess({}, entry.head, self._clock(), rules)
        endless = math.isinf(own.lifetime)
        return replace(
            plain,
            stored=Stored(
                key=entry.key,
                url=entry.url,
                status=head.status,
                size=entry.size,
                sha256=entry.sha256,
                verified=entry.verified,
                received_at=head.received_at,
                age=int(own.age),
                lifetime=None if endless else int(own.lifetime),
                ttl=None if endless else int(own.lifetime - own.age),
                fresh=own.fresh,
                etag=head.header("ETag"),
                last_modified=head.header("Last-Modified"),
                serial=head.header(SERIAL),
                body=entry.body,
                headers=tuple(each for each in head.headers if each[0].lower() in KEPT),
            ),
        )


def refused(plain: Explanation, error: ProxyError) -> Explanation:
    """An error is what the client gets."""
    later = () if error.retry_after is None else (("Retry-After", str(error.retry_after)),)
    return replace(
        plain,
        decision="refuse",
        because=error.because,
        outcome=error.outcome,
        status=error.status,
        headers=(*error.headers, *later),
    )


def _told(plain: Explanation, answer: Answer) -> Explanation:
    """That answer is what the client gets."""
    answer.close()
    status, headers = answer.cache_status, answer.headers
    if answer.stop is not None and answer.status != 304:
        headers = (*headers, ("Content-Length", str(answer.stop - answer.start)))
    return replace(
        plain,
        decision="serve",
        because=status.because,
        outcome=status.outcome,
        status=answer.status,
        headers=headers,
    )


async def _answered(plain: Explanation, answer: Awaitable[Answer]) -> Explanation:
    try:
        return _told(plain, await answer)
    except ProxyError as error:
        return refused(plain, error)


async def _decided(rooms: Unasked, plain: Explanation, before: decide.Before, answer: Awaitable[Answer]) -> Explanation:
    plain = await _answered(plain, answer)
    wish = rooms.wishes.first
    match before:
        case decide.Serve():
            # A remembered 404 is served, too. Lists and mounts begin what goes on behind a moment later.
            behind = before.refresh_behind and (wish is not None or plain.kind in ("list", "raw"))
            return replace(plain, decision="serve", refresh_behind=behind)
        case decide.Refuse():
            return plain
        case decide.Fetch() | decide.Revalidate() | decide.Pass():
            if wish is None:
                return plain
            return _asking(plain, wish, _decision(before), before.because)
        case _:
            assert_never(before)


def _decision(before: decide.Fetch | decide.Revalidate | decide.Pass) -> Decision:
    match before:
        case decide.Revalidate():
            return "revalidate"
        case decide.Pass():
            return "relay"
        case _:
            return "fetch"


def _asking(plain: Explanation, wish: Wish, decision: Decision, because: str) -> Explanation:
    """An upstream has the word. What is said without it is what is served should it fail."""
    return replace(
        plain,
        decision=decision,
        because=because,
        outcome=None,
        status=None,
        headers=(),
        asks_upstream=True,
        upstream_url=wish.url,
        under_way=wish.under_way,
        falls_back=plain.decision == "serve",
    )


def _listed(plain: Explanation, listed: Wanted | Entry) -> Explanation:
    if isinstance(listed, Entry):
        return replace(plain, project=listed.tag.partition("/")[2])
    pin = strongest(listed.hashes)
    told = ListedFile(listed.project, None if pin is None else f"{pin[0]}={pin[1]}", listed.size)
    return replace(plain, project=listed.project, listed=told)
