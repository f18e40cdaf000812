"""A file the upstream corrupts: never a finished download, never kept, over with the next healthy one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tests.harness.behaviours import Answer, Behaviour, cut, polite
from tests.harness.clients import Fresh, Installer
from tests.harness.exchange import Ending, Gate
from tests.harness.fetch import Fetched, fetch
from tests.harness.packages import Distribution, wheel
from tests.harness.server import ProxyServer
from tests.harness.upstream import Upstream
from tests.harness.waiting import eventually

StartProxy = Callable[..., ProxyServer]

# Larger than the 64 KiB that are held back, so that a status line has left before the end is known.
BIG = 300_000
SMALL = 1_000
# Options that keep an installer from asking again by itself.
ONCE = {
    "pip-23.2": ("--retries", "0"),
    "pip-newest": ("--retries", "0", "--resume-retries", "0"),
    "uv": (),
}


@pytest.fixture
def proxy(upstream: Upstream, start_proxy: StartProxy) -> ProxyServer:
    """A proxy over the upstream."""
    return start_proxy(upstream)


def published(upstream: Upstream, padding: int) -> Distribution:
    """A wheel of about that size, at the upstream."""
    made = wheel("thing", padding=padding)
    upstream.index.add(made)
    return made


def ask(proxy: ProxyServer, upstream: Upstream, file: Distribution) -> Fetched:
    """The file through the proxy, whose page was looked at before as every installer does."""
    assert fetch(f"{proxy.index_url}/{file.project}/").status == 200
    return fetch(proxy.file_url(upstream.location(file)))


@pytest.mark.parametrize("padding", [SMALL, BIG])
@pytest.mark.parametrize(
    "fault",
    [
        Answer(corrupt=100),
        Answer(corrupt=-1),
        Answer(corrupt=-1, framing="chunked"),
        Answer(corrupt=-1, framing="close"),
        Answer(body=b"<html>Please log in</html>", headers={"Content-Type": "text/html"}),
        # An upstream that sends no ranges: nothing can be resumed.
        Answer(stop_after=-1, framing="close", headers={"Accept-Ranges": "none"}),
    ],
    ids=["early", "last", "last-chunked", "last-close", "portal", "short-close"],
)
def test_wrong_bytes_are_never_a_finished_answer(
    fault: Answer, padding: int, proxy: ProxyServer, upstream: Upstream
) -> None:
    """A big body is cut, a small one is a 502; nothing is kept; the next is asked past caches and right."""
    made = published(upstream, padding)
    upstream.script(upstream.path_of(made), _from_end(fault, made.size), polite)
    first = ask(proxy, upstream, made)
    assert not (first.status == 200 and first.complete)
    assert first.status == 502 or padding == BIG
    eventually(lambda: proxy.spooled() == [], "the spool file is gone")
    assert proxy.stored() == []
    again = ask(proxy, upstream, made)
    assert (again.status, again.complete, again.sha256) == (200, True, made.sha256)
    asked = [each for each in upstream.log if each.path == upstream.path_of(made)]
    assert [each.headers.get("cache-control") for each in asked] == [None, "no-cache"]


def _from_end(fault: Answer, size: int) -> Behaviour:
    """Negative offsets count from the end of the body."""
    changes = {
        name: size + value
        for name in ("corrupt", "stop_after")
        if (value := getattr(fault, name)) is not None and value < 0
    }
    return replace(fault, **changes)


def follow(url: str, receiving: threading.Event) -> Fetched:
    """Fetches, and says when the first bytes of the body are there."""
    return fetch(url, progress=lambda _: receiving.set())


def test_all_followers_of_a_corrupt_fill_are_cut(proxy: ProxyServer, upstream: Upstream) -> None:
    """Whoever followed the fill gets no complete body; one upstream request was made for all."""
    made = published(upstream, BIG)
    gate = Gate()
    upstream.script(upstream.path_of(made), Answer(corrupt=250_000, stall_after=100_000, gate=gate), polite)
    url = proxy.file_url(upstream.location(made))
    assert fetch(f"{proxy.index_url}/thing/").status == 200
    with ThreadPoolExecutor(8) as pool:
        following = [threading.Event() for _ in range(8)]
        jobs = [pool.submit(follow, url, told) for told in following]
        assert all(told.wait(20) for told in following)
        gate.open()
        answers = [job.result() for job in jobs]
    assert not any(answer.complete for answer in answers)
    assert upstream.count("GET", upstream.path_of(made)) == 1
    assert proxy.stored() == []


def test_the_second_mismatch_rests_the_url(proxy: ProxyServer, upstream: Upstream) -> None:
    """Corrupt twice running: the third request is refused, with Retry-After, without asking the upstream."""
    made = published(upstream, BIG)
    upstream.script(upstream.path_of(made), Answer(corrupt=5), Answer(corrupt=5), polite)
    assert not ask(proxy, upstream, made).complete
    assert not ask(proxy, upstream, made).complete
    third = ask(proxy, upstream, made)
    assert third.status in (502, 503)
    assert 1 <= int(third.headers["retry-after"]) <= 10
    assert upstream.count("GET", upstream.path_of(made)) == 2


def test_a_changed_file_under_a_listed_hash_is_refused(proxy: ProxyServer, upstream: Upstream) -> None:
    """The page promises one sha256, the upstream has another file of the same size: nobody gets it."""
    made = published(upstream, SMALL)
    other = wheel("thing", padding=SMALL).data[::-1]
    upstream.script(upstream.path_of(made), Answer(body=other))
    assert ask(proxy, upstream, made).status == 502
    assert proxy.stored() == []


def test_no_installer_takes_a_corrupt_wheel(
    installer: Installer, proxy: ProxyServer, upstream: Upstream, fresh: Callable[[], Fresh]
) -> None:
    """The installer sees a broken download, never a wrong file; the next healthy attempt works at once.

    uv makes that attempt itself, though it is told not to.
    """
    made = published(upstream, BIG)
    upstream.script(upstream.path_of(made), Answer(corrupt=280_000), polite)
    client = fresh()
    client.environment["UV_HTTP_RETRIES"] = "0"
    first = installer.install(client, proxy.index_url, "thing", extra=ONCE[installer.name])
    assert "hash" not in first.stdout.lower()
    assert "error" in first.stdout.lower() or installer.pip is None
    if first.returncode != 0:
        assert proxy.stored() == []
        again = installer.install(client, proxy.index_url, "thing")
        assert again.returncode == 0, again.stdout
    assert client.version_of("thing") == "1.0"
    assert upstream.count("GET", upstream.path_of(made)) == 2
    eventually(lambda: [each.name for each in proxy.stored()] == [made.filename], "the file is kept")


@pytest.mark.parametrize("ending", ["close", "reset"])
def test_no_installer_takes_a_short_wheel(
    ending: Ending,
    installer: Installer,
    proxy: ProxyServer,
    upstream: Upstream,
    fresh: Callable[[], Fresh],
) -> None:
    """An upstream that always cuts: the install fails and nothing is kept; once it is well, the next works.

    It cuts so early that two attempts to resume do not make it whole.
    """
    made = published(upstream, BIG)
    upstream.script(upstream.path_of(made), cut(50_000, ending))
    client = fresh()
    client.environment["UV_HTTP_RETRIES"] = "0"
    first = installer.install(client, proxy.index_url, "thing", extra=ONCE[installer.name])
    assert first.returncode != 0, first.stdout
    assert "hash" not in first.stdout.lower()
    assert proxy.stored() == []
    upstream.script(upstream.path_of(made))
    again = installer.install(client, proxy.index_url, "thing")
    assert again.returncode == 0, again.stdout
    assert client.version_of("thing") == "1.0"
