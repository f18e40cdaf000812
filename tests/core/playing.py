"""Scripts played to the model of RFC 9111: what each step comes to, for others to be compared with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from tests.core import rfc9111
from tests.core.scripts import MOUNT, START, Lines, Script, Settings, Step

CONDITIONS = ("if-none-match", "if-modified-since")
NOT_PASSED = (*CONDITIONS, "if-range", "range")
"""What is left out of a request whose conditions are the cache's own."""

Kept = list[tuple[str, int, int, Mapping[str, str]]]
"""URL, status, body and fields of each stored response, sorted."""


@dataclass(frozen=True)
class Seen:
    """What one step came to: what the client got, and what conditions the origin was asked with, each time."""

    answer: rfc9111.Answer
    asked: tuple[Mapping[str, str], ...] = ()


@dataclass(frozen=True)
class Reply:
    """An answer of the origin; ``status`` None is none at all. Times in seconds."""

    status: int | None
    lines: Lines
    body: int
    asked_at: float
    received_at: float


class Origin:
    """Answers the questions of one step, and remembers their conditions. ``now`` is when it was done."""

    def __init__(self, step: Step, number: int, now: float) -> None:
        self._answers = iter([(step.says, 2 * number), (step.again, 2 * number + 1)])
        self.asked: list[Mapping[str, str]] = []
        self.now = now

    def reply(self, fields: Mapping[str, str]) -> Reply:
        """The answer to a request with these fields, which comes now."""
        conditions = {name: value for name, value in fields.items() if name in CONDITIONS}
        self.asked.append(conditions)
        says, body = next(self._answers)
        asked_at, self.now = self.now, self.now + says.after
        return Reply(
            says.answered(conditional=bool(conditions), ranged="range" in fields),
            says.lines(self.now),
            body,
            asked_at,
            self.now,
        )


class Model:
    """Plays to the model."""

    def __init__(self, options: Settings) -> None:
        self.cache = rfc9111.Cache(
            rfc9111.Choices(
                default_ttl=options.default_ttl,
                stale_if_error=options.stale_if_error,
                stale_while_revalidate=options.stale_while_revalidate,
                reload=options.reload,
            )
        )

    def play(self, step: Step, origin: Origin) -> Seen:
        """What this step comes to."""
        asked, now = rfc9111.Asked(step.method, MOUNT + step.url, dict(step.fields)), origin.now
        plan = self.cache.plan(asked, now)
        if plan.do == "refuse":
            return Seen(rfc9111.Answer("nobody", 504))
        if plan.do == "serve":
            assert plan.stored is not None
            answer = rfc9111.shown(asked, plan.stored.told, "store", self.cache.age(plan.stored.told, now))
            if plan.behind:
                self._ask(replace(bare(asked), method="GET"), plan, origin)
        else:
            answer = self._ask(asked, plan, origin)
        return Seen(answer, tuple(origin.asked))

    def _ask(self, asked: rfc9111.Asked, plan: rfc9111.Plan, origin: Origin) -> rfc9111.Answer:
        conditions = dict(plan.conditions)
        answer = self._told(asked, plan, origin, {**bare(asked).fields, **conditions} if conditions else asked.fields)
        if answer is None:
            asked = bare(asked)
            answer = self._told(asked, rfc9111.Plan("ask"), origin, asked.fields)
        assert answer is not None
        return answer

    def _told(
        self, asked: rfc9111.Asked, plan: rfc9111.Plan, origin: Origin, fields: Mapping[str, str]
    ) -> rfc9111.Answer | None:
        reply = origin.reply(fields)
        if reply.status is None:
            return self.cache.learn(asked, plan, None, reply.received_at)
        told = rfc9111.Told(reply.status, fields_of(reply.lines), reply.body, reply.asked_at, reply.received_at)
        return self.cache.learn(asked, plan, told, reply.received_at)

    def kept(self) -> Kept:
        """What is stored."""
        all_of_them = [(url.removeprefix(MOUNT), each.told) for url, many in self.cache.stored.items() for each in many]
        return sorted(((url, told.status, told.body, told.fields) for url, told in all_of_them), key=repr)


@dataclass(frozen=True)
class Expected:
    """A step that begins at ``now``, what it is to come to, and what is to be stored after it."""

    number: int
    step: Step
    now: float
    seen: Seen
    kept: Kept

    def origin(self) -> Origin:
        """The same one, for another cache."""
        return Origin(self.step, self.number, self.now)


def expected(script: Script) -> Iterator[Expected]:
    """Each step of a script."""
    model, now = Model(script.settings), START
    for number, step in enumerate(script.steps):
        origin = Origin(step, number, now + step.wait)
        yield Expected(number, step, now + step.wait, model.play(step, origin), model.kept())
        now = max(now + step.wait, origin.now)


def bare(asked: rfc9111.Asked) -> rfc9111.Asked:
    """Without the client's own conditions and range."""
    return replace(asked, fields={name: value for name, value in asked.fields.items() if name not in NOT_PASSED})


def fields_of(lines: Lines) -> dict[str, str]:
    """Header lines by lower-case name, those of one name combined (RFC 9110 §5.2)."""
    found: dict[str, str] = {}
    for name, value in lines:
        found[name.lower()] = f"{found[name.lower()]}, {value}" if name.lower() in found else value
    return found
