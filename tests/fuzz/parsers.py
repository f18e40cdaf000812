"""All of them."""

from __future__ import annotations

from tests.fuzz import bodies, pages, words

PARSERS = (*pages.PARSERS, *words.PARSERS, *bodies.PARSERS)
