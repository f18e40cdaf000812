"""What coding a page costs, and what is left of it: zstd at several levels against gzip by ISA-L."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import orjson

from proxy.codings import compress
from proxy.core.negotiation import Coding
from proxy.renditions import ZSTD_LEVEL
from tests.bench.figures import Series, report

_SIZES = {"10 KB": 15, "2.9 MB": 4300}
_LEVELS = sorted({ZSTD_LEVEL, 3, 6, 9})
_REPETITIONS = 5


def run(directory: Path) -> None:
    """Both sizes, every level."""
    for size, files in _SIZES.items():
        page = _page(files)
        packed, gzip = _coded(page, "gzip", 0)
        for level in _LEVELS:
            smaller, zstd = _coded(page, "zstd", level)
            report(f"{size} of JSON, zstd {level}", zstd, gzip, f"{smaller:,} bytes, gzip {packed:,}")


def _coded(page: bytes, coding: Coding, level: int) -> tuple[int, Series]:
    """Bytes that are left, and milliseconds that it took."""
    times, coded = [], b""
    for _ in range(_REPETITIONS):
        began = time.perf_counter()
        coded = compress(page, coding, zstd_level=level)
        times.append((time.perf_counter() - began) * 1000)
    return len(coded), Series(coding, times, "ms")


def _page(number: int) -> bytes:
    """A page like those of PyPI: long names that repeat, and digests that do not."""
    chance = random.Random(1)
    files = [_file(f"project-1.{each // 40}.{each % 40}", chance) for each in range(number)]
    return orjson.dumps({"meta": {"api-version": "1.4"}, "name": "project", "files": files})


def _file(release: str, chance: random.Random) -> dict[str, Any]:
    python = f"cp3{chance.randrange(8, 15)}"
    name = f"{release}-{python}-{python}-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"
    path = f"{chance.randbytes(1).hex()}/{chance.randbytes(1).hex()}/{chance.randbytes(30).hex()}"
    metadata = {"sha256": chance.randbytes(32).hex()}
    return {
        "filename": name,
        "url": f"../../files/main/files.example.com/packages/{path}/{name}",
        "hashes": {"sha256": chance.randbytes(32).hex()},
        "size": chance.randrange(10**6, 10**7),
        "upload-time": f"2026-01-{chance.randrange(10, 29)}T10:11:12.{chance.randrange(10**5, 10**6)}Z",
        "requires-python": ">=3.8",
        "core-metadata": metadata,
        "data-dist-info-metadata": metadata,
        "yanked": False,
    }
