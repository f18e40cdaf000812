"""The hot tier: answers as the bytes that go over the wire, for questions that were answered from memory before.

Each is found by what of a request can change its answer, and is right until a moment that it knows; then its head is
made anew, by the room that made it, and the body stays as it is. What changes in the store takes its answers away.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection
from dataclasses import replace
from http import HTTPStatus

from proxy.answer import Answer, Lasting
from proxy.core.fields import format_date
from proxy.events import Again, Event, Repeating
from proxy.web.sending import CONTROL, fields_of

Key = tuple[object, ...]
JOINED_MOST = 64 * 1024
"""Bytes of a body that lie ready behind their head, for one write; a larger one is kept once, and has its own."""
_OVERHEAD = 2048
"""What an answer costs beside its bytes: its key, and what makes it anew."""
_DATE = b"\r\nDate: "
_WORDS_MOST, _WORDS_OVERHEAD = 16, 256
"""So many requests, word for word, are known to ask for one answer; and what each costs beside its bytes."""


class Hot:
    """One answer: ``wire`` are its first bytes, with a date of ours at ``dated`` (-1: none), ``body`` the rest. It is
    right from ``since`` until ``until``, both in seconds since the epoch, as long as ``sound`` says so. ``words`` are
    requests that ask for it, as they came; ``cost`` is its ``size`` and theirs. Once it is gone it never is right
    again, and holds nothing: ``lasting`` is None."""

    __slots__ = (
        "answer", "body", "cost", "dated", "event", "key", "lasting", "since", "size", "sound", "told", "until", "wire",
        "words",
    )  # fmt: skip

    def __init__(self, key: Key, lasting: Lasting, event: Event) -> None:
        self.key = key
        self.lasting: Lasting | None = lasting
        self.sound = lasting.sound
        self.event = event
        self.told: tuple[Again, ...] = ()
        self.wire = self.body = b""
        self.answer: Answer | None = None
        self.dated = -1
        self.since = self.until = 0.0
        self.cost = self.size = _OVERHEAD + event.sent
        self.words: deque[bytes] = deque()

    def made(self, answer: Answer, observers: Collection[Repeating]) -> None:
        """Take over what it is now. What is told of it changes when its reason does; of an answer that is the very same
        as before only our own date is another."""
        if answer is self.answer:
            if self.dated >= 0:
                date = format_date(int(self.since)).encode()
                self.wire = self.wire[: self.dated] + date + self.wire[self.dated + len(date) :]
            return
        self.answer = answer
        status = answer.cache_status
        body = answer.body if self.event.method != "HEAD" and isinstance(answer.body, bytes) else b""
        event = replace(self.event, outcome=status.outcome, because=status.because, sent=len(body))
        # Of the first time it may tell that the upstream was asked.
        event = replace(event, upstream_seconds=0.0, upstream_status=None, collapsed=False)
        if event != self.event or not self.told:
            self.event, self.told = event, tuple(each.like(event) for each in observers)
        head = _head(answer, self.since)
        self.dated = -1 if any(name.lower() == "date" for name, _ in answer.headers) else head.index(_DATE) + len(_DATE)
        self.wire, self.body = (head + body, b"") if len(body) <= JOINED_MOST else (head, body)


class HotTier:
    """Answers bounded by bytes, least recently used out first. Belongs to the event loop.

    ``limit`` is in bytes; one answer takes at most an eighth of it. ``observers`` are told of each that is given.
    ``verbatim`` finds the answers by the bytes of requests; it belongs to the tier.
    """

    def __init__(self, limit: int, observers: Collection[Repeating]) -> None:
        self._limit = limit
        self._observers = observers
        self._answers: OrderedDict[Key, Hot] = OrderedDict()
        self._of_row: dict[tuple[str, str], set[Key]] = {}
        self.verbatim: dict[bytes, Hot] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._answers)

    def find(self, key: Key, now: float) -> Hot | None:
        """The answer to that question, as it is now."""
        hot = self._answers.get(key)
        if hot is None or not self.right(hot, now):
            return None
        self._answers.move_to_end(key)
        return hot

    def right(self, hot: Hot, now: float) -> bool:
        """Whether the answer is right, if need be made anew; if not, it is gone."""
        if (hot.since <= now < hot.until or self._again(hot, now)) and (hot.sound is None or hot.sound()):
            return True
        self._drop(hot)
        return False

    def take(self, key: Key, lasting: Lasting, event: Event, now: float) -> None:
        """Give an answer from now on that was given; ``event`` is what was told of it. It is made when it is asked for:
        of what is fetched most is wanted once."""
        if self.find(key, now) is not None:
            return  # of many who waited for the same answer the first one gave it
        hot = Hot(key, lasting, event)
        if self._too_large(hot):
            return
        self._answers[key] = hot
        self.bytes += hot.cost
        for row in lasting.rows:
            self._of_row.setdefault(row, set()).add(key)
        self._shrink()

    def remember(self, data: bytes, hot: Hot) -> None:
        """Find the answer by these bytes from now on; of many only the last few."""
        if hot.lasting is None or data in self.verbatim:
            return
        self.verbatim[data] = hot
        hot.words.append(data)
        self._charge(hot, len(data) + _WORDS_OVERHEAD)
        if len(hot.words) > _WORDS_MOST:
            oldest = hot.words.popleft()
            del self.verbatim[oldest]
            self._charge(hot, -len(oldest) - _WORDS_OVERHEAD)
        self._shrink()

    def changed(self, room: str | None, key: str | None) -> None:
        """Drop what was made of that row: of any of the room without ``key``, of any at all without ``room``."""
        if room is not None and key is not None:
            for each in tuple(self._of_row.get((room, key), ())):
                self._drop(self._answers[each])
        else:
            for hot in list(self._answers.values()):
                self._drop(hot)

    def _charge(self, hot: Hot, cost: int) -> None:
        hot.cost += cost
        self.bytes += cost

    def _shrink(self) -> None:
        while self.bytes > self._limit:
            self._drop(next(iter(self._answers.values())))

    def _again(self, hot: Hot, now: float) -> bool:
        if not self._renewed(hot, now) or self._too_large(hot):
            return False
        self._answers.move_to_end(hot.key)
        self._shrink()
        return hot.lasting is not None  # its own words may have pushed it out

    def _too_large(self, hot: Hot) -> bool:
        return hot.size > self._limit // 8

    def _renewed(self, hot: Hot, now: float) -> bool:
        made = None if hot.lasting is None else hot.lasting.again()
        if made is None:
            return False
        answer, hot.until = made
        hot.since = now
        hot.made(answer, self._observers)
        size = _OVERHEAD + len(hot.wire) + max(len(hot.body), len(hot.wire))
        self._charge(hot, size - hot.size)
        hot.size = size
        return True

    def _drop(self, hot: Hot) -> None:
        if hot.lasting is None:
            return
        del self._answers[hot.key]
        self.bytes -= hot.cost
        for row in hot.lasting.rows:
            keys = self._of_row[row]
            keys.discard(hot.key)
            if not keys:
                del self._of_row[row]
        for data in hot.words:
            del self.verbatim[data]
        # Whoever still knows it must not keep alive what it was made of: whole pages.
        hot.lasting = hot.sound = hot.answer = None
        hot.until, hot.wire, hot.body, hot.told = 0.0, b"", b"", ()


def _head(answer: Answer, now: float) -> bytes:
    """Status line and fields, as aiohttp writes them for an answer that it is given."""
    fields = fields_of(answer)
    if answer.status != 304 and answer.stop is not None:
        fields["Content-Length"] = str(answer.stop - answer.start)
    if "Date" not in fields:
        fields["Date"] = format_date(int(now))
    lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}"]
    lines += (CONTROL.sub(" ", f"{name}: {value}") for name, value in fields.items())
    return "\r\n".join([*lines, "", ""]).encode()
