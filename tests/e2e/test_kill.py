"""kill -9 in the middle of a fill: nothing wrong, nothing lost, nothing left over."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from tests.harness.behaviours import Answer
from tests.harness.exchange import Gate
from tests.harness.fetch import Fetched, fetch
from tests.harness.packages import Distribution, blob
from tests.harness.server import ProxyServer
from tests.harness.upstream import Upstream
from tests.harness.waiting import eventually

ROUNDS = 20
SIZE = 600_000


@pytest.fixture
def blobs(upstream: Upstream) -> list[Distribution]:
    """A file for each round, of sizes that differ."""
    made = [blob(f"blob{number}", size=SIZE + number * 777, seed=number) for number in range(ROUNDS)]
    upstream.index.add(*made)
    return made


def killed_in_the_middle(proxy: ProxyServer, upstream: Upstream, file: Distribution, after: int) -> None:
    """Kills the proxy once the upstream sent ``after`` bytes; for the whole size, once the client has it."""
    url = proxy.file_url(upstream.location(file))
    assert fetch(f"{proxy.index_url}/{file.project}/").status == 200
    gate, received = Gate(), threading.Event()
    if after < file.size:
        upstream.script(upstream.path_of(file), Answer(stall_after=after, gate=gate))

    def progress(size: int) -> None:
        if size == file.size:
            received.set()

    client = threading.Thread(target=fetch, args=(url,), kwargs={"progress": progress})
    client.start()
    assert (received if after == file.size else gate.reached).wait(20)
    proxy.kill()
    gate.open()
    client.join(20)
    upstream.script(upstream.path_of(file))


def whole(answer: Fetched, file: Distribution) -> bool:
    """Whether it is the file, completely."""
    return (answer.status, answer.complete, answer.sha256) == (200, True, file.sha256)


def no_orphans(proxy: ProxyServer, files: list[Distribution]) -> None:
    """Waits until the disk holds each of these once, in its size, and nothing else."""
    wanted = sorted((each.filename, each.size) for each in files)
    eventually(
        lambda: sorted((path.name, path.stat().st_size) for path in proxy.stored()) == wanted,
        f"the disk holds {wanted}",
    )


@pytest.mark.slow
def test_twenty_kills(upstream: Upstream, blobs: list[Distribution], start_proxy: Callable[..., ProxyServer]) -> None:
    """Each time: starts, sweeps, serves all it had, downloads what was cut, accounts for every byte."""
    proxy = start_proxy(upstream)
    for number, file in enumerate(blobs):
        # Half of them spread over the body; the rest at its end, where the kill meets fsync, rename and row.
        killed_in_the_middle(proxy, upstream, file, min(file.size, file.size * number * 2 // ROUNDS))
        proxy.start()
        eventually(lambda: proxy.spooled() == [], "incoming/ is clean")
        upstream.forget()
        for cached in blobs[:number]:
            answer = fetch(proxy.file_url(upstream.location(cached)))
            assert whole(answer, cached)
            assert answer.hit
        assert upstream.asked("/packages/") == []
        assert whole(fetch(proxy.file_url(upstream.location(file))), file)
        no_orphans(proxy, blobs[: number + 1])
