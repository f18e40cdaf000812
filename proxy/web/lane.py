"""The fast lane: what was asked before in the very same bytes is answered as the bytes come in.

A connection hands over what it received while nothing else is under way on it. What is one whole plain request, and has
an answer in the hot tier, is answered there and then: nothing is parsed, awaited or built. Everything else goes the
normal way, and so does every first time: the lane gives only answers that the normal way has given to that question.

Two requests are one question when their first lines are the same, and all fields that can change an answer or the
connection (``_MATTERS``); the other fields change nothing, as `translate` drops them. Fields that say where a request
ends, or speak of another protocol, are never let in.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from typing import Protocol

from aiohttp import __version__ as aiohttp_version

from proxy.answer import Lasting
from proxy.events import Event
from proxy.web.forwarded import Front
from proxy.web.hot import HotTier, Key
from proxy.web.vitals import Heat

_log = logging.getLogger("proxy.web")

TESTED = re.compile(r"3\.14\.([5-9]|[1-9][0-9]+)")
"""Versions of aiohttp whose connections are known to be idle when they say so."""
LONGEST = 4096
"""Bytes of a request; a longer one is none of an installer."""
_PLAIN = re.compile(rb"(?:GET|HEAD) /[!-~]* HTTP/1\.1\r\n(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[ -~\t]*\r\n){1,60}\r\n")
_NEVER = re.compile(rb"\n(?:content-|transfer-encoding:|expect:|upgrade:|sec-websocket-|trailer:|te:)", re.IGNORECASE)
# Of a User-Agent all that counts is which pip it is: see ``core.wishes``.
_MATTERS = re.compile(
    rb"\n(?:((?:accept|accept-encoding|cache-control|connection|host|if-modified-since|if-none-match|if-range|pragma|range)"
    rb":[^\r]*)|user-agent:[ \t]*(pip/[0-9]{1,4}\.[0-9]{1,4})?)",
    re.IGNORECASE,
)
_FORWARDED = re.compile(rb"\nx-forwarded-for:([^\r]*)", re.IGNORECASE)


class Caller(Protocol):
    """A connection: who is at its other end, whether it is believed what it forwards, the question that is asked the
    normal way now, and the hash of the bytes of the one before."""

    peer: str
    trusted: bool
    question: Key | None
    before: int

    def send(self, first: bytes, rest: bytes) -> None:
        """Write an answer."""


class Lane:
    """Answers from the hot tier; belongs to the event loop."""

    def __init__(self, tier: HotTier, front: Front) -> None:
        self._tier = tier
        self._front = front
        self._given = 0

    def heat(self) -> Heat:
        """How much there is, and was given."""
        return Heat(len(self._tier), self._tier.bytes, self._given)

    def answered(self, caller: Caller, data: bytes) -> bool:
        """Whether that was a question with an answer at hand, which was given."""
        began, now, again = time.perf_counter(), time.time(), False
        hot = self._tier.verbatim.get(data)
        if hot is None or caller.trusted or not (
            (hot.since <= now < hot.until and hot.sound is None) or self._tier.right(hot, now)
        ):
            key = question_of(data)
            hot = None if key is None else self._tier.find(key, now)
            if hot is None:
                caller.question = key
                return False
            again, caller.before = caller.before == hash(data), hash(data)
        caller.send(hot.wire, hot.body)
        self._given += 1
        client = self._client(caller, data) if caller.trusted else caller.peer
        seconds = time.perf_counter() - began
        for tell in hot.told:
            tell(now, seconds, client)
        if again:
            self._tier.remember(data, hot)
        return True

    def take(self, caller: Caller, lasting: Lasting, event: Event) -> None:
        """An answer that was given the normal way to the caller's question, and can be given again."""
        question = caller.question
        if question is None:
            return
        if lasting.kept is None or lasting.kept.done():
            self._tier.take(question, lasting, event, time.time())
        else:
            lasting.kept.add_done_callback(lambda _: self._tier.take(question, lasting, event, time.time()))

    def _client(self, caller: Caller, data: bytes) -> str:
        forwarded: Sequence[str] = [each.decode().strip(" \t") for each in _FORWARDED.findall(data)]
        return self._front.walked(caller.peer, forwarded)


def question_of(data: bytes) -> Key | None:
    """What is asked, when it is one whole plain request and nothing else."""
    if len(data) > LONGEST or _PLAIN.fullmatch(data) is None or _NEVER.search(data) is not None:
        return None
    return data[: data.index(b"\r")], *_MATTERS.findall(data)


def fits(version: str = aiohttp_version) -> bool:
    """Whether it was tested with that aiohttp; if not the log says so."""
    if TESTED.fullmatch(version) is None:
        _log.warning("the fast lane is closed: it was not tested with aiohttp %s", version)
        return False
    return True
