"""Warm answers, given again from what is at hand: what rooms of the gateway tell the hot tier (see `Lasting`).

Each says for itself, once a second, whether the question would be decided in the same way now: by the very functions
that decided it the first time. There is no second rule of freshness here.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from proxy.answer import Answer, Lasting
from proxy.core.lifetime import current_age, read
from proxy.core.messages import Entry, Head, Headers
from proxy.core.urls import listing_key
from proxy.filebodies import etag_of, proven
from proxy.store import Store

if TYPE_CHECKING:
    from proxy.wanted import Listings, Wanted

BODY_MOST = 256 * 1024
"""Bytes of a file that is kept at hand whole."""


def until(now: float, head: Head | None = None) -> float:
    """Until when what was said at ``now`` is right to the second: until the clock shows the next one, or the age of a
    response becomes another, or the time since it was validated does."""
    parts = [now % 1]
    if head is not None:
        parts += [current_age(read(head), now) % 1, (now - head.received_at) % 1]
    return now + 1 - max(parts)


def with_headers(lasting: Lasting | None, headers: Headers) -> Lasting | None:
    """The same with more header fields behind."""
    if lasting is None:
        return None
    again = lasting.again
    before: tuple[Answer, Answer] | None = None

    def more() -> tuple[Answer, float] | None:
        nonlocal before
        if (made := again()) is None:
            return None
        if before is None or before[0] is not made[0]:
            before = made[0], replace(made[0], headers=(*made[0].headers, *headers))
        return before[1], made[1]

    return replace(lasting, again=more)


def of_file(store: Store, listings: Listings, listed: Wanted, entry: Entry, answer: Answer, method: str) -> Answer:
    """The answer from a stored body, and how to give it again: as long as the page lists that very body, and that is in
    the state in which it was proven. Not of a part, nor of a large body that is asked for."""
    bare = method == "HEAD" or answer.status == 304
    if answer.status == 206 or (entry.size > BODY_MOST and not bare):
        return answer
    whole = replace(answer, body=b"") if bare else None

    def again() -> tuple[Answer, float] | None:
        nonlocal whole
        if store.at_hand.entry(listed.room, entry.key) is not entry or not listings.still(listed):
            return None
        if whole is None:
            body = store.at_hand.body(entry)
            whole = None if body is None else replace(answer, body=body)
        return None if whole is None else (whole, until(listings.now()))

    return replace(answer, lasting=Lasting(_rows(listed), again, store.at_hand.unchanged(entry)))


def of_coming(
    store: Store, listings: Listings, listed: Wanted, kept: asyncio.Future[None] | None, answer: Answer
) -> Answer:
    """The answer from a body on its way, and how to give it again when it is ``kept``, if it is the one listed."""
    bare = replace(answer, body=b"", upstream_seconds=0.0)  # or what is on its way would be held as long as this
    lasting: Lasting | None = None

    def known() -> Lasting | None:
        nonlocal lasting
        entry = store.at_hand.entry(listed.room, listed.key)
        if lasting is None and entry is not None and etag_of(entry.sha256) == listed.etag:
            hit = replace(bare, cache_status=proven(entry), stop=entry.size)
            lasting = of_file(store, listings, listed, entry, hit, "GET").lasting
        return lasting

    def again() -> tuple[Answer, float] | None:
        return None if (of := known()) is None else of.again()

    def sound() -> bool:
        return lasting is not None and lasting.sound is not None and lasting.sound()

    return replace(answer, lasting=Lasting(_rows(listed), again, sound, kept))


def _rows(listed: Wanted) -> tuple[tuple[str, str], ...]:
    return (listed.room, listed.key), ("responses", listing_key(listed.target.index, listed.project))
