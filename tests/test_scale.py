"""What a start and a long life cost: what is imported, whose memory it is, and the caches that benches generate."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.scale import generate
from tests.bench.servers import proxy
from tests.harness.fetch import fetch
from tests.harness.packages import wheel
from tests.harness.upstream import Upstream

# What only some answers need, and would be a third of the time that a start takes.
LATER = ("requests", "urllib3", "cachecontrol", "jinja2", "prometheus_client", "pypi_simple")

# Threads that hold memory at the same time, each in an arena of its own if it may; then the arenas but the main one. In
# the kernel's table such a one is memory that can be used and, right behind it, what it may grow into, 64 MiB in all.
ARENAS = """
import ctypes, re, sys, threading
from proxy import heap
if "one" in sys.argv:
    heap.use_one_arena()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
barrier = threading.Barrier(8)
def hold():
    barrier.wait()
    libc.malloc(1000)
    barrier.wait()
threads = [threading.Thread(target=hold) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
lines = re.findall(r"^(\\w+)-(\\w+) (....)", open("/proc/self/maps").read(), re.MULTILINE)
pairs = zip(lines, lines[1:])
print(sum(
    one[2] == "rw-p" and other[2] == "---p" and one[1] == other[0] and int(other[1], 16) - int(one[0], 16) == 2**26
    for one, other in pairs
))
"""
glibc = pytest.mark.skipif(
    not (sys.platform == "linux" and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")), reason="needs glibc"
)


def test_a_start_imports_nothing_that_only_some_answers_need() -> None:
    """`serve` says where it listens before the judge of freshness, its HTTP client, metrics and pages are loaded."""
    program = "import sys, proxy.cli, proxy.config, proxy.app; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not set(LATER) & set(done.stdout.split())


@glibc
def test_all_threads_share_one_arena() -> None:
    """And without it they do not, or this would show nothing."""
    found = [
        int(subprocess.run([sys.executable, "-c", ARENAS, word], capture_output=True, text=True, check=True).stdout)
        for word in ("one", "many")
    ]
    assert found[0] == 0
    assert found[1] > 0


def test_a_generated_cache_is_served(tmp_path: Path) -> None:
    """All that benches ask of one: pages and files of every project, and no upstream that is asked."""
    made = generate(tmp_path / "cache", files=7, pages=3)
    with Upstream(wheel("one")) as upstream, proxy(tmp_path, upstream) as server:
        pages = [fetch(f"{server.url}{made.page(number)}") for number in range(3)]
        files = [fetch(f"{server.url}{made.file(number)}") for number in range(7)]
    assert all(answer.status == 200 and answer.hit for answer in (*pages, *files))
    assert [f"project-{number:06d}".encode() in page.decoded for number, page in enumerate(pages)] == [True] * 3
    assert not upstream.log
