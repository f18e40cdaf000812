"""Clients in processes of their own that hash what they get: what one of them does slows no other down."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.harness import hashing_client

Client = subprocess.Popen[str]


@contextmanager
def hashing(host: str, port: int, path: str, count: int = 1) -> Iterator[Client]:
    """A process with so many clients that ask for it (see ``hashing_client``); killed, by its id, if it has not
    ended."""
    assert hashing_client.__file__ is not None
    command = [sys.executable, hashing_client.__file__, host, str(port), path, str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
        try:
            yield client
        finally:
            client.kill()


def said(client: Client) -> str:
    """The next line of the client; empty when it ended without one."""
    assert client.stdout is not None
    return client.stdout.readline().strip()
