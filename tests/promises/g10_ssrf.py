"""Nobody makes the proxy connect to where only its own machine and network can."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.harness.lan import Lan
from tests.harness.server import ROOT, clean_environment
from tests.promises.promise import Measured, Promise, Size
from tests.promises.ssrf import OWN_ADDRESSES

PROMISE = Promise("G10", "SSRF", "500 crafted URLs, pages, redirects, rebindings: 0 connections to canaries")
CASES = {"ci": 500, "long": 1_000}
_ETC = {"resolv.conf": "nameserver 127.0.0.1\noptions timeout:5 attempts:1\n", "nsswitch.conf": "hosts: files dns\n"}


def measure(size: Size, directory: Path) -> Measured:
    """``ssrf`` in a namespace where every address is this machine's own."""
    reason = Lan.missing()
    assert reason is None, reason
    with Lan(directory, addresses=OWN_ADDRESSES, etc=_ETC) as lan:
        command = (sys.executable, "-m", "tests.promises.ssrf", str(CASES[size]), str(directory))
        done = subprocess.run(
            [*lan.prefix(ROOT), *command], env=clean_environment(), capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    led, unguarded = sum(told["guarded"].values()), sum(told["unguarded"].values())
    figure = f"{told['cases']} cases, {told['canaries']} canaries: {led} led there ({unguarded} without the guard)"
    ways = ", ".join(way for way, count in told["guarded"].items() if count)
    return Measured(figure, (f"{led} cases led to a canary: {ways}",) if led else ())
