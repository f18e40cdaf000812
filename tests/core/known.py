"""Scripts that once found something where the core or the model was wrong, and what chance rarely meets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.core.scripts import NEW, OLD, Says, Step

TAG_A, WEAK_A, WEAK_B = (("ETag", '"a"'),), (("ETag", 'W/"a"'),), (("ETag", 'W/"b"'),)
LIVES = Says(control=("max-age=30",))


def told(others: tuple[tuple[str, str], ...], status: int = 200, **more: Any) -> Says:
    """An answer with these lines."""
    return replace(Says(status, others=others), **more)


KNOWN = {
    "a 304 with another weak tag is of no use (§4.3.4)": (
        Step(says=told(TAG_A)), Step(says=told(WEAK_B, 304)),
    ),
    "nor one with a strong tag where a weak one is kept": (
        Step(says=told(WEAK_A)), Step(says=told(TAG_A, 304)),
    ),
    "nor one with another Last-Modified": (
        Step(says=told((("Last-Modified", OLD),))), Step(says=told((("Last-Modified", NEW),), 304)),
    ),
    "a malformed tag in a 304 is one of its fields (§3.2)": (
        Step(says=told(WEAK_A)), Step(says=told((("ETag", "a"),), 304)), Step(),
    ),
    "a 304 that forbids to store (§3)": (
        Step(says=told(TAG_A)), Step(says=told((), 304, control=("no-store",))), Step(),
    ),
    "a 304 with another Vary (§4.1)": (
        Step(fields=(("x-one", "1"),), says=told(TAG_A)), Step(says=told((("Vary", "X-One"),), 304)), Step(),
    ),
    "a 304 has no serial of its own rules": (
        Step(says=told((*TAG_A, ("X-PyPI-Last-Serial", "7")))), Step(says=told((("X-PyPI-Last-Serial", "5"),), 304)),
    ),
    "the Date tells which is newer (§4)": (
        Step(fields=(("x-one", "1"), ("x-two", "1")), says=told((("Vary", "X-One"),), control=("max-age=30",))),
        Step(fields=(("x-one", "2"), ("x-two", "1")),
             says=told((("Vary", "X-Two"),), control=("max-age=30",), date=-5)),
        Step(fields=(("x-one", "1"), ("x-two", "1"))),
    ),
    "one with Vary goes before a newer without (§4.1)": (
        Step(fields=(("x-one", "1"),), says=told((("Vary", "X-One"),), control=("max-age=30",))),
        Step(1.0, fields=(("x-one", "2"),), says=LIVES),
        Step(1.0, fields=(("x-one", "1"),)),
    ),
    "no date of change: the Date (§4.3.2)": (
        Step(says=LIVES), Step(fields=(("if-modified-since", "Mon, 21 Sep 2026 14:13:40 GMT"),)),
    ),
    "a date that cannot be read is none": (
        Step(says=replace(LIVES, date="yesterday")),
        Step(fields=(("if-modified-since", "Mon, 21 Sep 2026 14:13:40 GMT"),)),
    ),
    "min-fresh takes nothing stale (§5.2.1.3)": (
        Step(says=told(TAG_A, control=("max-age=5",))),
        Step(6.0, fields=(("cache-control", "max-stale, min-fresh=3"),)),
    ),
    "a status without a heuristic, unless it is public (§4.2.2)": (
        Step(says=told((("Last-Modified", OLD),), 302, control=("public",))), Step(9.0),
        Step(url="b", says=told((("Last-Modified", OLD),), 302, control=("must-revalidate",))), Step(9.0, url="b"),
    ),
    "a HEAD of another length, and of the same (§4.3.5)": (
        Step(says=told(TAG_A)), Step(method="HEAD", says=told((("Content-Length", "10"),))),
        Step(method="HEAD", says=told((("Content-Length", "11"),))), Step(),
    ),
    "what says that it is for all is, whoever asked for it (§3.5)": (
        Step(fields=(("authorization", "Basic x"),), says=Says(control=("max-age=30", "must-revalidate"))), Step(),
        Step(url="b", fields=(("authorization", "Basic x"),), says=LIVES), Step(url="b", says=LIVES),
        Step(url="b", fields=(("authorization", "Basic x"),)),
    ),
    "must-understand, understood and not (§5.2.2.3)": (
        Step(says=Says(control=("no-store", "must-understand", "max-age=30"))), Step(),
        Step(url="b", says=Says(599, control=("must-understand", "max-age=30"))), Step(url="b"),
    ),
    "the response's stale-if-error goes before the setting (RFC 5861)": (
        Step(says=Says(control=("max-age=5", "stale-if-error=60"))), Step(20.0, says=Says(None)),
        Step(url="b", says=Says(control=("max-age=5", "stale-while-revalidate=60"))), Step(20.0, url="b"),
    ),
    "a 200 to HEAD where a 404 is kept (§4.3.5)": (
        Step(says=told((), 404, control=("max-age=5",))), Step(9.0, "HEAD", says=told(TAG_A)), Step(),
    ),
}  # fmt: skip
