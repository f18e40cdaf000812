"""Many clients, one cold file: one upstream request, right bytes for all, no memory that grows with it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.harness import hashing_client
from tests.harness.behaviours import Answer
from tests.harness.exchange import Gate
from tests.harness.fetch import fetch
from tests.harness.packages import Distribution, blob
from tests.harness.server import ProxyServer
from tests.harness.upstream import Upstream

CLIENTS = 50
MIB = 1024 * 1024
Client = subprocess.Popen[str]


@contextmanager
def hashing(proxy: ProxyServer, upstream: Upstream, file: Distribution) -> Iterator[Client]:
    """A client process that asks for the file; killed, by its id, if it has not ended."""
    assert hashing_client.__file__ is not None
    script = Path(hashing_client.__file__)
    path = proxy.file_url(upstream.location(file)).removeprefix(proxy.url)
    command = [sys.executable, str(script), proxy.host, str(proxy.port), path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
        try:
            yield client
        finally:
            client.kill()


def said(client: Client) -> str:
    """The next line of the client; empty when it ended without one."""
    assert client.stdout is not None
    return client.stdout.readline().strip()


@pytest.mark.slow
def test_fifty_clients_one_upstream_request(upstream: Upstream, start_proxy: Callable[..., ProxyServer]) -> None:
    """50 processes follow one fill of 200 MB; the upstream rests until all have begun: all overlap."""
    file = blob("big", size=200 * MIB)
    upstream.index.add(file)
    gate = Gate()
    upstream.script(upstream.path_of(file), Answer(stall_after=4 * MIB, gate=gate))
    proxy = start_proxy(upstream)
    assert fetch(f"{proxy.index_url}/big/").status == 200
    before = proxy.rss()
    with ExitStack() as running:
        clients = [running.enter_context(hashing(proxy, upstream, file)) for _ in range(CLIENTS)]
        assert [said(client) for client in clients] == ["started"] * CLIENTS
        gate.open()
        assert [said(client) for client in clients] == [file.sha256] * CLIENTS
        assert [client.wait(60) for client in clients] == [0] * CLIENTS
    assert upstream.count("GET", upstream.path_of(file)) == 1
    assert proxy.peak_rss() - before < 64 * MIB


def test_a_fill_survives_the_client_that_started_it(
    upstream: Upstream, start_proxy: Callable[..., ProxyServer]
) -> None:
    """The first client is killed in the middle; a second follows the same fill to its end."""
    file = blob("big", size=8 * MIB)
    upstream.index.add(file)
    gate = Gate()
    upstream.script(upstream.path_of(file), Answer(stall_after=2 * MIB, gate=gate))
    proxy = start_proxy(upstream)
    assert fetch(f"{proxy.index_url}/big/").status == 200
    with hashing(proxy, upstream, file) as first:
        assert said(first) == "started"
    with hashing(proxy, upstream, file) as second:
        assert said(second) == "started"
        gate.open()
        assert said(second) == file.sha256
    assert upstream.count("GET", upstream.path_of(file)) == 1
