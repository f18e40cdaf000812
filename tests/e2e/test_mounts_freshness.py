"""How long answers of mounts live, on the wire: RFC 9111 and RFC 5861 as they stand, and what an operator may add.

An origin that says ``Age`` makes an answer old at once: nothing here waits for time to pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from time import time

import pytest

from tests.harness.exchange import Gate
from tests.harness.origin import HANG_UP, Lines, Question, Say, Step, Tree, listen, say, tree
from tests.harness.waiting import eventually
from tests.harness.walking import files_below

ETAG = ("ETag", '"a"')
OLD = ("Age", "1000")
NEW = say("new", "max-age=5000", ("ETag", '"b"'))
SAME = say("", None, ETAG, status=304)
MOUNTS = {
    "honour": {"reload": "honour"},
    "ignore": {"reload": "ignore"},
    "limited": {"reload": "limited", "min_reload_interval": "1h"},
    "ttl": {"default_ttl": "1h"},
    "strict": {"stale_if_error": "0s"},
    "behind": {"stale_while_revalidate": "1h"},
}
SETTINGS = {"freshness": {"stale_if_error": "2h", "stale_after": "100ms"}}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    """One proxy that these tests share."""
    with tree(tmp_path_factory.mktemp("mounts"), MOUNTS, SETTINGS) as made:
        yield made


def kept(here: Tree, *steps: Say, mount: str = "tree") -> tuple[Tree, str]:
    """A mount, and a path whose first answer is kept."""
    there = here.on(mount)
    rest = there.place(*steps)
    assert there.get(rest).whole
    there.settle(rest)
    return there, rest


# --- fresh or not

FRESH_OR_NOT = [
    ("max-age=5000", (), True),
    ("s-maxage=5000, max-age=0", (), True),
    ("s-maxage=0, max-age=5000", (), False),
    ("max-age=5000", (OLD,), True),
    ("max-age=500", (OLD,), False),
    ("MAX-AGE=5000", (), True),
    ('max-age="5000"', (), True),
    ("max-age=5000, no-cache", (), False),
    ('max-age=5000, no-cache="set-cookie"', (), False),
    ("max-age=abc", (("Expires", formatdate(time() + 5000, usegmt=True)),), False),
    ("public", (("Expires", formatdate(time() + 5000, usegmt=True)),), True),
    ("public", (("Expires", "0"),), False),
    ("public", (("Last-Modified", formatdate(time() - 500_000, usegmt=True)),), True),
    ("public", (("Last-Modified", formatdate(time() + 5_000, usegmt=True)),), False),
    ("public", (), False),
]


@pytest.mark.parametrize(("control", "lines", "fresh"), FRESH_OR_NOT)
def test_what_is_fresh(here: Tree, control: str, lines: Lines, fresh: bool) -> None:
    """RFC 9111 §4.2: fresh is a hit; stale is asked about with its ETag, and a 304 is answered with what is kept."""
    there, rest = kept(here, say("body", control, ETAG, *lines), SAME)
    told = there.get(rest)
    assert (told.status, told.body, told.hit) == (200, b"body", fresh)
    assert [each.header("if-none-match") for each in there.origin.asked(rest)] == [None] + ([] if fresh else ['"a"'])


@pytest.mark.parametrize("control", ["no-store, max-age=5000", "private, max-age=5000", 'private="x", max-age=5000'])
def test_what_is_never_kept(here: Tree, control: str) -> None:
    """No shared cache may."""
    rest = here.place(say("body", control, ETAG))
    for _ in range(2):
        assert here.get(rest).body == b"body"
    here.idle()
    assert not here.kept(rest)
    assert len(here.origin.asked(rest)) == 2


@pytest.mark.parametrize("status", [200, 203, 204, 301, 302, 307, 308, 400, 403, 404, 410, 500, 503, 599])
def test_any_status_with_a_life(here: Tree, status: int) -> None:
    """Explicit freshness makes any final status a hit (RFC 9111 §3)."""
    rest = here.place(say("" if status == 204 else "body", "max-age=5000", status=status))
    here.get(rest)
    assert here.hit(rest).status == status
    assert len(here.origin.asked(rest)) == 1


@pytest.mark.parametrize("status", [302, 400, 403, 500, 503, 599])
def test_a_status_without_a_life(here: Tree, status: int) -> None:
    """Those that are not heuristically cacheable are not kept."""
    rest = here.on("ttl").place(say("body", None, ("Last-Modified", formatdate(0, usegmt=True)), status=status))
    for _ in range(2):
        assert here.on("ttl").get(rest).status == status
    here.idle()
    assert not here.kept(rest)


def test_a_life_that_the_operator_gives(here: Tree) -> None:
    """``default_ttl`` is for what says nothing at all, and for nothing else; elsewhere it is 0."""
    rest = here.place(say("body", None))
    for mount, fresh in (("ttl", True), ("tree", False)):
        there, same = kept(here, say("body", None), mount=mount)
        assert there.get(same).hit is fresh
    there, rest = kept(here, say("body", "max-age=0"), mount="ttl")
    assert not there.get(rest).hit
    there, rest = kept(here, say("body", None, status=404), mount="ttl")
    assert there.get(rest).hit


def test_stale_after_is_not_for_mounts(here: Tree) -> None:
    """RFC 9111 §4.2.4 allows no stale answer because the origin is slow: it is waited for."""
    gate = Gate()
    there, rest = kept(here, say("old", "max-age=0", ETAG), say("new", "max-age=5000", held=gate))
    with there.send(rest) as connection:
        assert gate.reached.wait(20)
        connection.settimeout(0.5)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(20)
        gate.open()
        assert listen(connection, "GET").body == b"new"


# --- 304


def test_a_304_brings_new_fields(here: Tree) -> None:
    """RFC 9111 §3.2: every field replaces those of its name, several lines of one stay several; others remain."""
    keys = [("Set-Cookie", "c=3"), ("Set-Cookie", "d=4"), ("X-A", "2"), ("Cache-Control", "max-age=5000")]
    first = say("body", "max-age=0", ETAG, ("X-A", "1"), ("X-B", "1"), ("X-C", "1"), ("X-C", "2"))
    there, rest = kept(here, first, say("", None, ETAG, *keys[2:], ("X-C", "3"), ("X-C", "4"), status=304))
    for told in (there.get(rest), there.hit(rest)):
        assert (told.status, told.body, told.header("content-length")) == (200, b"body", "4")
        assert (told.all("x-a"), told.all("x-b"), told.all("x-c")) == (["2"], ["1"], ["3", "4"])
        assert told.all("etag") == ['"a"']
        assert len(told.all("date")) == 1
    assert len(there.origin.asked(rest)) == 2


def test_a_304_brings_cookies(tmp_path: Path) -> None:
    """All of its lines in the place of all of those kept."""
    with tree(tmp_path, {"keys": {"pass_credentials": True}}) as made:
        old = say("body", "max-age=0", ETAG, ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"))
        new = say("", "max-age=5000", ETAG, ("Set-Cookie", "c=3"), ("Set-Cookie", "d=4"), status=304)
        there, rest = kept(made, old, new, mount="keys")
        for told in (there.get(rest), there.hit(rest)):
            assert told.all("set-cookie") == ["c=3", "d=4"]


def test_a_304_of_another_version(here: Tree) -> None:
    """§4.3.4: with another strong ETag it says nothing of what is kept; the whole is asked for."""
    there, rest = kept(here, say("old", "max-age=0", ETAG), say("", None, ("ETag", '"b"'), status=304), NEW)
    assert there.get(rest).body == b"new"
    assert [each.header("if-none-match") for each in there.origin.asked(rest)] == [None, '"a"', None]
    assert there.hit(rest).body == b"new"


@pytest.mark.parametrize(
    ("control", "lines"), [("no-store", ()), ("private", ()), ("max-age=5000", (("Vary", "X-Other"),))]
)
def test_a_304_that_ends_what_is_kept(here: Tree, control: str, lines: Lines) -> None:
    """It is answered with, once, and not kept: that is forbidden now, or another request may not have it."""
    there, rest = kept(here, say("body", "max-age=0", ETAG), say("", control, ETAG, *lines, status=304), NEW)
    assert there.get(rest).body == b"body"
    assert there.get(rest).body == b"new"
    assert there.origin.asked(rest)[-1].header("if-none-match") is None


def test_a_304_that_the_client_asked_for(here: Tree) -> None:
    """Nothing is here, so it is passed on; of nothing else."""
    rest = here.place(say("", None, ETAG, status=304))
    told = here.get(rest, ("If-None-Match", '"a"'))
    assert (told.status, told.body, told.header("etag")) == (304, b"", '"a"')


CLIENTS = [
    (("If-None-Match", '"a"'), 304),
    (("If-None-Match", 'W/"a"'), 304),
    (("If-None-Match", '"x", "a"'), 304),
    (("If-None-Match", "*"), 304),
    (("If-None-Match", '"x"'), 200),
    (("If-Modified-Since", "Sun, 06 Nov 1994 08:49:37 GMT"), 304),
    (("If-Modified-Since", "Sun, 06 Nov 1994 08:49:36 GMT"), 200),
]


@pytest.mark.parametrize("control", ["max-age=5000", "max-age=0"])
@pytest.mark.parametrize(("line", "status"), CLIENTS)
def test_conditions_of_clients(here: Tree, line: tuple[str, str], status: int, control: str) -> None:
    """§4.3.2: answered from what is kept; of what is stale the origin is asked with our own condition."""
    lines = (ETAG, ("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT"), ("Content-Type", "x/y"), ("Vary", "X"))
    there, rest = kept(here, say("body", control, *lines), SAME)
    told = there.get(rest, line)
    assert (told.status, told.body) == (status, b"" if status == 304 else b"body")
    assert (told.all("etag"), len(told.all("last-modified")), told.all("vary")) == (['"a"'], 1, ["X"])
    if control == "max-age=0":
        assert there.origin.asked(rest)[-1].all("if-none-match") == ['"a"']


# --- when the origin fails

DEAD, TROUBLE = HANG_UP, say("trouble", None, status=503)


@pytest.mark.parametrize("failure", [DEAD, TROUBLE, say("", None, status=500), say("", None, status=504)])
@pytest.mark.parametrize(
    ("mount", "control", "served"),
    [
        ("tree", "max-age=1", True),
        ("strict", "max-age=1", False),
        ("strict", "max-age=1, stale-if-error=5000", True),
        ("tree", "max-age=1, stale-if-error=0", False),
        ("tree", "max-age=1, stale-if-error=900", False),
        ("tree", "max-age=1, must-revalidate", False),
        ("tree", "max-age=1, proxy-revalidate", False),
        ("tree", "s-maxage=1", False),
        ("tree", "no-cache", False),
    ],
)
def test_stale_if_error(here: Tree, mount: str, control: str, served: bool, failure: Say) -> None:
    """RFC 5861 §4: the response's own word goes before the operator's, and RFC 9111 §4.2.4 before both."""
    there, rest = kept(here, say("old", control, OLD, ETAG), failure, mount=mount)
    told = there.get(rest)
    if served:
        assert (told.status, told.body, told.hit) == (200, b"old", failure is DEAD)
        assert "fwd-status" in "".join(told.cache) or failure is DEAD
    else:
        assert told.status == (503 if failure is DEAD else failure.status)
        assert told.body != b"old"
    there.origin.script(rest, SAME)
    assert there.get(rest).body == b"old"


@pytest.mark.parametrize("status", [400, 403, 404, 429, 501, 505])
def test_other_errors_are_answers(here: Tree, status: int) -> None:
    """They are passed on (RFC 5861 §4 names 500, 502, 503 and 504)."""
    there, rest = kept(here, say("old", "max-age=0", ETAG), say("no", "no-store", status=status))
    assert (there.get(rest).status, there.get(rest).body) == (status, b"no")


def test_nothing_here_and_nobody_there(here: Tree) -> None:
    """503, with a time to try again; and nothing of it is kept."""
    rest = here.place(HANG_UP)
    told = here.get(rest)
    assert (told.status, told.header("retry-after")) == (503, "2")
    here.origin.script(rest, say("here", None))
    assert here.get(rest).body == b"here"


# --- stale-while-revalidate


BEHIND = [("behind", "max-age=1"), ("tree", "max-age=1, stale-while-revalidate=5000")]


@pytest.mark.parametrize(("mount", "control"), BEHIND)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("condition", [(), (("If-None-Match", '"a"'),), (("Range", "bytes=0-1"),)])
def test_stale_while_revalidate(here: Tree, mount: str, control: str, method: str, condition: Lines) -> None:
    """RFC 5861 §3: served stale at once, and one refresh behind, however many ask, for the whole and by GET."""
    gate = Gate()
    there, rest = kept(here, say("old", control, OLD, ETAG), say("new", "max-age=5000", held=gate), mount=mount)
    for _ in range(3):
        told = there.ask(method, rest, *condition)
        assert (told.hit, told.status in (200, 206, 304)) == (True, True)
    assert gate.reached.wait(20)
    assert there.get(rest).body == b"old"
    gate.open()
    eventually(lambda: there.get(rest).body == b"new", "the new one is here")
    assert [each.method for each in there.origin.asked(rest)] == ["GET", "GET"]
    assert there.origin.asked(rest)[1].all("if-none-match") == ['"a"']
    assert there.origin.asked(rest)[1].all("range") == []


@pytest.mark.parametrize("line", ["no-cache", "max-age=5", "min-fresh=5"])
def test_who_wants_newer_waits_for_it(here: Tree, line: str) -> None:
    """RFC 9111 §5.2.1."""
    there, rest = kept(here, say("old", "max-age=1", OLD, ETAG), NEW, mount="behind")
    assert there.get(rest, ("Cache-Control", line)).body == b"new"


@pytest.mark.parametrize("failure", [DEAD, TROUBLE])
def test_a_refresh_behind_that_fails(here: Tree, failure: Say) -> None:
    """Nobody hears of it; the next request tries again."""
    there, rest = kept(here, say("old", "max-age=1", OLD, ETAG), failure, mount="behind")
    there.get(rest)
    there.origin.await_asked(rest, 2)
    there.idle()
    there.origin.script(rest, NEW)
    eventually(lambda: there.get(rest).body == b"new", "the new one is here")
    assert "Traceback" not in here.proxy.stderr


# --- what clients wish


def test_only_if_cached(here: Tree) -> None:
    """RFC 9111 §5.2.1.7: 504 rather than a question to the origin."""
    rest = here.place(say("body", "max-age=5000"))
    for method in ("GET", "HEAD", "POST"):
        told = here.ask(method, rest, ("Cache-Control", "only-if-cached"), body=b"" if method == "POST" else None)
        assert told.status == 504
    assert here.origin.asked(rest) == []
    here.get(rest)
    assert here.hit(rest).body == b"body"
    there, rest = kept(here, say("body", "max-age=0", ETAG))
    assert there.get(rest, ("Cache-Control", "only-if-cached")).status == 504


def test_no_store_goes_around(here: Tree) -> None:
    """The client's own answer, which is not kept; what is kept stays."""
    there, rest = kept(here, say("old", "max-age=5000"), NEW)
    assert there.get(rest, ("Cache-Control", "no-store")).body == b"new"
    told = there.get(rest)
    assert (told.body, told.hit) == (b"old", True)
    assert len(there.origin.asked(rest)) == 2


WISHES = [
    # of a client, of an answer that is 1,000 s old, whether it is a hit
    ("max-age=2000", "max-age=5000", True),
    ("max-age=500", "max-age=5000", False),
    ("max-age=5000", "max-age=500", False),
    ("min-fresh=3000", "max-age=5000", True),
    ("min-fresh=4500", "max-age=5000", False),
    ("max-stale=5000", "max-age=500", True),
    ("max-stale", "max-age=500", True),
    ("max-stale=100", "max-age=500", False),
    ("max-stale=5000", "max-age=500, must-revalidate", False),
    ("no-cache", "max-age=5000", False),
    ("nothing-known", "max-age=5000", True),
]


@pytest.mark.parametrize(("wish", "control", "hit"), WISHES)
def test_wishes(here: Tree, wish: str, control: str, hit: bool) -> None:
    """RFC 9111 §5.2.1, in both directions."""
    there, rest = kept(here, say("body", control, OLD, ETAG), SAME, mount="honour")
    told = there.get(rest, ("Cache-Control", wish))
    assert (told.body, told.hit) == (b"body", hit)


def test_pragma(here: Tree) -> None:
    """§5.4: no-cache, where no Cache-Control is said."""
    there, rest = kept(here, say("body", "max-age=5000", ETAG), SAME, mount="honour")
    assert there.get(rest, ("Pragma", "no-cache"), ("Cache-Control", "max-stale")).hit
    assert not there.get(rest, ("Pragma", "no-cache")).hit


@pytest.mark.parametrize(("mount", "asks"), [("honour", True), ("limited", False), ("ignore", False), ("tree", True)])
@pytest.mark.parametrize("wish", ["no-cache", "max-age=0"])
def test_reloads(here: Tree, mount: str, asks: bool, wish: str) -> None:
    """``reload`` and ``min_reload_interval`` of the mount, or else those of ``[freshness]``."""
    there, rest = kept(here, say("body", "max-age=5000", ETAG), SAME, mount=mount)
    assert there.get(rest, ("Cache-Control", wish)).hit is not asks
    assert len(there.origin.asked(rest)) == (2 if asks else 1)


def test_offline(tmp_path: Path) -> None:
    """Whatever is here is served, stale or not, errors too; else 503. Nobody is asked, by no method."""
    with tree(tmp_path) as made:
        _, stale = kept(made, say("stale", "max-age=0, must-revalidate"))
        _, missing = kept(made, say("missing", "max-age=0", status=404))
        made.proxy.restart(settings={**made.proxy.settings, "freshness": {"offline": True}})
        assert made.get(stale).body == b"stale"
        assert (made.get(missing).status, made.get(missing).body) == (404, b"missing")
        for method in ("GET", "HEAD", "POST"):
            assert made.ask(method, "unknown", body=b"" if method == "POST" else None).status == 503
        assert made.ask("POST", stale, body=b"").status == 503
        assert made.get(stale, ("Cache-Control", "no-store")).body == b"stale"
        assert len(made.origin.asked(stale)) == 1


# --- Vary


def by(*names: str, control: str = "max-age=5000", vary: str | None = None) -> Step:
    """An origin whose answer is what those fields of the request said."""

    def answer(question: Question) -> Say:
        said = "|".join(str(question.header(name)) for name in names)
        return say(said, control, ("Vary", ", ".join(names) if vary is None else vary), ("ETag", f'"{said}"'))

    return answer


def test_variants(here: Tree) -> None:
    """RFC 9111 §4.1: each gets its own, several are kept side by side; absent is not empty."""
    rest = here.place(by("X-A", "X-B"))
    asked = [(), (("X-A", ""),), (("X-A", "1"),), (("X-A", "1"), ("X-B", "2")), (("X-B", "2"),)]
    seen = {here.get(rest, *lines).body for lines in asked}
    assert len(seen) == len(asked)
    for lines in asked:
        assert here.hit(rest, *lines).body == here.get(rest, *lines).body
    assert len(here.origin.asked(rest)) == len(asked)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((("X-A", "1, 2"),), (("X-A", "1,2"),)),
        ((("X-A", "1,2"),), (("X-A", "1"), ("x-a", "2"))),
        ((("X-A", " 1 ,\t2 "),), (("X-A", "1,2"),)),
    ],
)
def test_the_same_in_other_words(here: Tree, one: Lines, other: Lines) -> None:
    """§4.1: whitespace and lines make no difference."""
    rest = here.place(by("X-A"))
    here.get(rest, *one)
    here.hit(rest, *one)
    assert here.get(rest, *other).hit


def test_vary_of_everything(here: Tree) -> None:
    """§4.1: it never matches, so it is not kept."""
    for vary in ("*", "X-A, *"):
        rest = here.place(by("X-A", vary=vary))
        for _ in range(2):
            assert not here.get(rest).hit
        here.idle()
        assert not here.kept(rest)


def test_which_of_several_wins(here: Tree) -> None:
    """§4.1: the one that says what it varies by, before one that may have left that out, whichever is newer."""
    there, rest = kept(here, say("all", "max-age=5000"), say("one", "max-age=5000", ("Vary", "X-A")))
    there.get(rest, ("X-A", "1"), ("Cache-Control", "no-cache"))
    there.settle(rest)
    assert there.hit(rest, ("X-A", "1")).body == b"one"
    assert there.hit(rest, ("X-A", "2")).body == b"all"
    there.origin.script(rest, say("all again", "max-age=5000"))
    there.get(rest, ("Cache-Control", "no-cache"))
    eventually(lambda: there.hit(rest).body == b"all again", "the new one is kept")
    assert there.hit(rest, ("X-A", "1")).body == b"one"


def test_twenty_variants(here: Tree) -> None:
    """As many are kept of one URL, those received last; the bodies of the others go as well."""
    rest = here.place(by("X-A"))
    for number in range(25):
        here.get(rest, ("X-A", str(number)))
        here.hit(rest, ("X-A", str(number)))
    for number in range(25):
        wanted = 200 if number >= 5 else 504
        assert here.get(rest, ("X-A", str(number)), ("Cache-Control", "only-if-cached")).status == wanted
    eventually(lambda: len([path for path in files_below(here.proxy.cache) if rest in path.name]) == 20, "20 bodies")


def test_nothing_is_left_open(here: Tree) -> None:
    """No look is under way, no body on its way, nothing spooled, and the log has no fault of ours."""
    here.idle()
    eventually(lambda: here.origin.busy == 0, "no answer is under way")
    assert here.proxy.spooled() == []
    assert "Traceback" not in here.proxy.stderr
