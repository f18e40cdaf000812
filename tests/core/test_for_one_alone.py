"""What is never kept because it answers one request, or one client; and what leads out of a mount."""

from __future__ import annotations

import pytest

from proxy.core.freshness import assess, storable
from proxy.core.messages import Head, Headers, Rules
from proxy.core.passing import below, told_to_client
from proxy.core.urls import dotted

NOW = 1_790_000_000.0
RULES = Rules(default_ttl=60.0, transparent=True)
LONG = ("Cache-Control", "max-age=1000")


def head(*lines: tuple[str, str], status: int = 200) -> Head:
    """A head that has just arrived."""
    return Head(status, lines, NOW, NOW)


@pytest.mark.parametrize("status", [206, 304, 412, 416, 428, 429, 431, 511])
def test_answers_to_one_request(status: int) -> None:
    """No stated life makes them anybody else's."""
    assert not storable(head(LONG, status=status), RULES)


@pytest.mark.parametrize(("lines", "kept"), [((), False), ((LONG,), True), ((("Expires", "0"),), True)])
def test_cookies_are_kept_where_a_life_is_stated(lines: Headers, kept: bool) -> None:
    """RFC 9111 §7.3 leaves it to the origin to say so."""
    assert storable(head(("Set-Cookie", "a=b"), *lines), RULES) is kept


@pytest.mark.parametrize(("status", "life"), [(200, 60), (404, 60), (405, 0), (414, 0), (501, 0)])
def test_the_default_is_for_resources(status: int, life: float) -> None:
    """Not for what refuses the request."""
    assert assess({}, head(status=status), NOW, RULES).lifetime == life


@pytest.mark.parametrize(("names", "kept"), [(1, True), (100, True), (101, False)])
def test_so_many_names_in_vary(names: int, kept: bool) -> None:
    """Beyond them nothing matches."""
    assert storable(head(LONG, ("Vary", ", ".join(f"x{number}" for number in range(names)))), RULES) is kept


def test_what_connection_may_not_name() -> None:
    """RFC 9110 §7.6.1: "Cache-Control is never appropriate as a connection option"."""
    told = told_to_client(
        head(("Connection", "cache-control, x"), ("Cache-Control", "no-store"), ("X", "1")), cookies=True
    )
    assert told.headers == (("Cache-Control", "no-store"),)


@pytest.mark.parametrize(
    ("segment", "leads_up"),
    [("..", True), (".", True), ("%2e.", True), ("..;", True), (".%2E%3bx=1", True), (";..", False), ("...", False)],
)
def test_dots(segment: str, leads_up: bool) -> None:
    """With parameters, too, in a Location as in a request."""
    assert dotted(segment) is leads_up
    assert (below(f"http://h/m/{segment}/a", "http://h/m/") is None) is leads_up
