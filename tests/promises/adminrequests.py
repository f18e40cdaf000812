"""The admin API against its own OpenAPI document: requests that a machine made up, good ones and bad ones, of both
tokens at the same time. Every answer must be one that the document has: status, headers, content type and body."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from tests.harness.packages import sdist, wheel
from tests.harness.server import ROOT, clean_environment
from tests.harness.world import world

_WRITE, _READ = "w" * 40, "r" * 40


def sent(directory: Path, times: float, within: float) -> tuple[int, list[str]]:
    """``times`` 5,100 cases, which take ``within`` seconds at most: how many they were, and what should not have been.
    AssertionError when they were all refused alike."""
    files = [wheel("alpha", "1.0"), wheel("alpha", "2.0"), wheel("beta"), sdist("beta")]
    with world(directory, {"admin": {"token": _WRITE, "read_token": _READ}}) as here, ExitStack() as running:
        here.publish(*files)
        paths = [*(f"/simple/{file.project}/" for file in files), *map(here.path_of, files)]
        warm = [f"{here.proxy.url}{path}" for path in paths]
        asking = [
            running.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.harness.madeup", here.proxy.url, token, str(times), *warm],
                    cwd=ROOT,
                    env=clean_environment(),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
            for token in (_WRITE, _READ)
        ]
        for each in asking:
            running.callback(each.kill)
        said = [each.communicate(timeout=within)[0] for each in asking]
        ended = zip(asking, said, strict=True)
        faults = [f"not in the document: {text[-3000:]}" for each, text in ended if each.returncode]
        seen = Counter(line["status"] for line in here.proxy.requests("/admin/cache/"))
        assert faults or min(seen[status] for status in (200, 400, 403)) >= 50 * times, seen
        faults += [f"{number} times {status}" for status, number in seen.items() if status >= 500]
    return seen.total(), faults
