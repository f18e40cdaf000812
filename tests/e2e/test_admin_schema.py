"""The admin API against its own OpenAPI document: thousands of requests that a machine made up, good ones and bad ones.

Every answer must be one that the document has: status, headers, content type and body; none may be a fault of ours.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness.packages import sdist, wheel
from tests.harness.server import ROOT, clean_environment
from tests.harness.world import world

WRITE, READ = "w" * 40, "r" * 40
LEAST = 5_000
WITHIN = 600


@pytest.mark.slow
def test_every_answer_is_documented(tmp_path: Path) -> None:
    """No fault of ours and no answer that is not in the document, in 5,000 cases of both tokens at the same time; and
    no way around a token."""
    files = [wheel("alpha", "1.0"), wheel("alpha", "2.0"), wheel("beta"), sdist("beta")]
    with world(tmp_path, {"admin": {"token": WRITE, "read_token": READ}}) as here, ExitStack() as running:
        here.publish(*files)
        paths = [*(f"/simple/{file.project}/" for file in files), *map(here.path_of, files)]
        warm = [f"{here.proxy.url}{path}" for path in paths]
        asking = [
            running.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.harness.madeup", here.proxy.url, token, *warm],
                    cwd=ROOT,
                    env=clean_environment(),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
            for token in (WRITE, READ)
        ]
        for each in asking:
            running.callback(each.kill)
        said = [each.communicate(timeout=WITHIN)[0] for each in asking]
        assert [each.returncode for each in asking] == [0, 0], "\n".join(said)
        assert sum(int(each.split()[-1]) for each in said) >= LEAST
        seen = Counter(line["status"] for line in here.proxy.requests("/admin/cache/"))
        assert seen.total() >= LEAST
        assert seen[500] == 0
        # They were not all refused alike.
        assert min(seen[status] for status in (200, 400, 403)) >= 100
