"""Every kept input obeys the law of its parser, also where a part of it is said again and again."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.parser import Parser, stretched
from tests.fuzz.parsers import PARSERS

TRIES = 2


@pytest.mark.parametrize("parser", [pytest.param(each, id=each.name) for each in PARSERS])
def test_kept_inputs(parser: Parser) -> None:
    """What once took a way of its own, or broke something."""
    inputs = list(parser.inputs())
    assert inputs
    for _, data in inputs:
        parser.hold(data)


@pytest.mark.parametrize("parser", [pytest.param(each, id=each.name) for each in PARSERS])
def test_time(parser: Parser) -> None:
    """The time is bounded by the length: nothing that a stranger repeats costs its square."""
    luck = random.Random(parser.name)
    inputs = [data for _, data in parser.inputs() if data]
    for data in luck.sample(inputs, min(len(inputs), 10)):
        for _ in range(TRIES):
            parser.hold(stretched(data, parser.longest, luck))
