"""Mounts: any HTTP tree, one to one, cached by RFC 9111 as it stands, by the same rules as pages.

What nothing stored can answer is asked of the origin: once, for all who want the same at that time (see ``looks``).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from copy import copy
from dataclasses import replace
from typing import assert_never

from proxy.answer import Answer, Flow, Upload
from proxy.core import decide
from proxy.core.fields import directives
from proxy.core.freshness import agrees, refreshed, remains, validators
from proxy.core.messages import CacheStatus, Entry, Head, RawTarget, Request, Rules, combined
from proxy.core.passing import absolute, below, hops_left, looped, told_to_client
from proxy.core.patterns import Selection
from proxy.errors import Refused, UpstreamFailed
from proxy.fills import Fills
from proxy.flights import Flights, Waiting
from proxy.looking import Look
from proxy.looks import Looks
from proxy.mountanswers import asked_status, passed_on, relayed
from proxy.mountrequests import Asked, Mount, MountLimits
from proxy.outcomes import served
from proxy.shelf import Found, Shelf
from proxy.store import Store
from proxy.upstream import Upstream

# RFC 9110 §9.2.1, and the registry's others. RFC 9111 §4.4: what is not known to be safe invalidates.
SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "REPORT", "SEARCH", "QUERY"})
_ALLOWED = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
_TURNS = 4


class Mounts:
    """Answers from all mounts."""

    def __init__(
        self,
        mounts: Sequence[Mount],
        fills: Fills,
        store: Store,
        upstream: Upstream,
        *,
        limits: MountLimits,
        clock: Callable[[], float],
    ) -> None:
        self._mounts: Mapping[str, Mount] = {mount.name: mount for mount in mounts}
        self._shelf = Shelf(store)
        self._upstream = upstream
        self._clock = clock
        # Of this process: a chain of proxies is no loop.
        self._via = f"1.1 pip-cache-proxy-{secrets.token_hex(4)}"
        self._looks = Looks(fills, self._shelf, upstream, via=self._via, limits=limits, clock=clock)
        self._refreshes: Flights[None] = Flights(waiters=limits.waiters)

    def aside(self, store: Store, upstream: Upstream) -> Mounts:
        """The same mounts over another store and upstream, for one who only looks; nobody's looks are shared."""
        twin = copy(self)
        twin._shelf, twin._upstream = Shelf(store), upstream
        twin._looks = self._looks.aside(twin._shelf, upstream)
        twin._refreshes = Flights(waiters=1)
        return twin

    def rules_of(self, target: RawTarget) -> Rules:
        """Its own: each mount may have others."""
        return self._mounts[target.mount].rules

    def looks_at(self, target: RawTarget) -> bool:
        """Whether that URL is being asked for at this moment."""
        return self._looks.under_way.has(target)

    async def close(self) -> None:
        """Cancel the refreshes under way."""
        await self._refreshes.close()

    @property
    def waiting(self) -> Waiting:
        """How many URLs are being asked for, and who waits for them."""
        return self._looks.under_way.waiting

    def forget(self, selection: Selection) -> None:
        """Let who asks from here on share nothing that began before, of what was removed."""
        self._looks.under_way.part_with(lambda target: selection.covers(*self._shelf.named(target)))

    async def answer(self, request: Request, target: RawTarget, upload: Upload | None = None) -> Answer:
        """The origin's answer, or the stored one. Raises Refused, and UpstreamFailed where the origin gives none."""
        if looped(request.fields, self._via):
            raise Refused("the request has been here before: this mount leads back to this proxy", status=508)
        if hops_left(request) == 0:
            status = CacheStatus("local", "as far as this request may go")
            return Answer(204, (("Allow", _ALLOWED),), b"", status, stop=0, raw=True)
        asked = Asked.of(self._mounts[target.mount], target, request, self._clock())
        if upload is None and request.method in decide.ANSWERED:
            return await self._read(asked)
        before = decide.before_upstream(asked.request, None, self._clock(), asked.mount.rules)
        if isinstance(before, decide.Refuse):
            raise decide.refusal(before)
        return await self._pass(asked, None, before.because, upload)

    async def before(self, request: Request, target: RawTarget) -> tuple[Entry | None, decide.Before]:
        """What is here for a request, and what to do with that. Asks nobody, changes nothing."""
        found, before = await self._before(Asked.of(self._mounts[target.mount], target, request, self._clock()))
        return found.entry, before

    async def _before(self, asked: Asked) -> tuple[Found, decide.Before]:
        found = await self._shelf.find(asked.request, asked.target)
        if not decide.may_answer(asked.request, found.entry):
            found = replace(found, entry=None)
        return found, decide.before_upstream(asked.request, found.entry, self._clock(), asked.mount.rules)

    # -- GET and HEAD ----------------------------------------------------------------------------------------

    async def _read(self, asked: Asked) -> Answer:
        seen: Look | None = None
        found, before = await self._before(asked)
        for _ in range(_TURNS):
            match before:
                case decide.Serve():
                    assert found.entry is not None
                    answer = await self._looks.stored(asked, found.entry, served(before))
                    if answer is not None:
                        if before.refresh_behind:
                            self._refresh_behind(asked, found)
                        return answer
                    # Its body is gone, and now its row is, too.
                case decide.Refuse():
                    raise decide.refusal(before)
                case decide.Pass():
                    return await self._pass(asked, found.entry, before.because)
                case decide.Fetch() | decide.Revalidate():
                    by_itself = alone(asked.request, before)
                    likely = self._looks.under_way.likely((asked.target, found.variant), asked.request.headers)
                    found = replace(found, variant=likely)
                    look = None if by_itself else self._looks.under_way.find((asked.target, found.variant))
                    if look is not None and look is not seen:
                        answer = await self._looks.joined(asked, found, look)
                        if answer is not None:
                            return answer
                        if look.nobodys:
                            break
                        seen = look
                    elif await self._looks.under_way.landed(asked.target):
                        pass  # and now there may be more to answer it with
                    elif by_itself:
                        return await self._pass(asked, found.entry, before.because)
                    else:
                        return await self._looks.look(asked, found, before, shared=True)
                case _:
                    assert_never(before)
            found, before = await self._before(asked)
        # What is stored cannot be read, or what others found is nobody else's.
        if not isinstance(before, decide.Fetch | decide.Revalidate):
            found, before = replace(found, entry=None), decide.Fetch("what is stored cannot be read")
        return await self._looks.look(asked, found, before, shared=False)

    def _refresh_behind(self, asked: Asked, found: Found) -> None:
        assert found.entry is not None
        if self._looks.under_way.find((asked.target, found.variant)) is not None:
            return
        whole = asked.unconditional()
        whole = replace(whole, request=replace(whole.request, method="GET"))
        # Too many may have joined it; nobody waits for it here.
        with suppress(UpstreamFailed):
            self._refreshes.join(found.entry.key, lambda: self._refresh(whole, found))

    async def _refresh(self, asked: Asked, found: Found) -> None:
        assert found.entry is not None
        conditions = validators(found.entry.head)
        because = "refreshed behind"
        before = decide.Revalidate(because, conditions) if conditions else decide.Fetch(because)
        with suppress(UpstreamFailed):
            answer = await self._looks.look(asked, found, before, shared=True)
            answer.close()
            if isinstance(answer.body, Flow):
                await answer.body.rest.aclose()

    # -- what no cache answers -------------------------------------------------------------------------------

    async def _pass(self, asked: Asked, entry: Entry | None, because: str, upload: Upload | None = None) -> Answer:
        """Ask the origin, and pass on what it says."""
        began, request, mount = self._clock(), asked.request, asked.mount
        chunks, length = (None, None) if upload is None else (upload.chunks, upload.length)
        holding = AsyncExitStack()
        try:
            opened = self._upstream.forward(
                mount.name,
                asked.url,
                method=request.method,
                headers=asked.lines(self._via),
                chunks=chunks,
                length=length,
            )
            reply = await holding.enter_async_context(opened)
            head = told_to_client(reply.head, cookies=mount.pass_credentials)
            if request.method not in SAFE and 200 <= head.status <= 399:
                await self._invalidate(asked, head)
            if entry is not None:
                await self._compare(asked, entry, head, reply.length)
            told = asked_status(because, request, entry, head.status, relay=True)
            answer = await relayed(
                request.method, head.status, passed_on(head, mount.url, asked.target), reply, holding, told
            )
        except UpstreamFailed as failure:
            await holding.aclose()
            return await self._looks.instead(asked, entry, failure)
        except BaseException:
            await holding.aclose()
            raise
        return replace(answer, upstream_seconds=self._clock() - began)

    async def _compare(self, asked: Asked, entry: Entry, head: Head, length: int | None) -> None:
        """What an answer says of the one that is kept. RFC 9111 §4.3.5: after a 200 to HEAD "the cache SHOULD update or
        invalidate" that. Raises UpstreamFailed for an error in whose place it may be served."""
        rules, wishes = asked.mount.rules, directives(asked.request.headers.get("cache-control"))
        if head.status in decide.ERRORS:
            after = decide.after_upstream(asked.request, entry, head, self._clock(), rules)
            if isinstance(after, decide.Fallback):
                raise UpstreamFailed(after.because, status=503, retry_after=2, upstream_status=head.status)
        same = agrees(entry, head, length) if asked.request.method == "HEAD" else None
        if same is None or "no-store" in wishes:
            return
        newer = refreshed(entry.head, replace(head, status=304), rules)
        if same and remains(newer, entry.head, rules, asked.request.headers):
            await self._shelf.refresh(entry, newer)
        else:
            await self._shelf.drop(entry)

    async def _invalidate(self, asked: Asked, head: Head) -> None:
        """RFC 9111 §4.4: "A cache MUST invalidate the target URI when it receives a non-error status code in response
        to an unsafe request method"; so the URIs "in the Location and Content-Location response header fields", of the
        same origin: here, of the same mount."""
        targets = {asked.target}
        for name in ("location", "content-location"):
            if (value := combined(head.headers, name)) is not None:
                there = absolute(value, asked.url)
                rest = None if there is None else below(there, asked.mount.url)
                if rest is not None:
                    targets.add(RawTarget(asked.mount.name, rest.partition("#")[0]))
        for target in targets:
            await self._shelf.invalidate(target)
        self._looks.under_way.part_with(lambda target: target in targets)


def alone(request: Request, before: decide.Fetch | decide.Revalidate) -> bool:
    """Is it asked for as it is, and nothing of it kept? HEAD brings no body, and a part is no whole one (RFC 9111
    §3.3); but what is asked whether it still holds is asked for as a whole."""
    return request.method == "HEAD" or ("range" in request.headers and isinstance(before, decide.Fetch))
