"""Load from wrk, pinned to one core: what came back is checked by its statuses and by its bytes."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Differing = Literal["", "id", "agent"]
_DIFFERING: Mapping[Differing, str] = {"": "", "id": "X-Request-Id", "agent": "User-Agent"}

# wrk's own counters: one line of JSON at the end. request() runs for each question only where it must differ.
_SCRIPT = """
wrk.method = "GET"
%(headers)s
%(request)s
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('{"requests":%%d,"seconds":%%.6f,"received":%%.0f,"failed":%%d,"p50":%%.4f,"p99":%%.4f}\\n',
    summary.requests, summary.duration / 1e6, summary.bytes, e.status + e.connect + e.read + e.write + e.timeout,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
"""
_REQUEST = """
local number = 0
request = function()
  number = number + 1
  wrk.headers["%s"] = "bench/" .. number
  return wrk.format()
end
"""


@dataclass(frozen=True, slots=True)
class How:
    """``seconds`` are whole ones, as wrk wants them; ``core`` None: wherever the system puts it."""

    connections: int
    seconds: float
    core: int | None = None
    differing: Differing = ""


@dataclass(frozen=True, slots=True)
class Loaded:
    """``received`` counts bytes with heads, ``p50`` and ``p99`` are milliseconds."""

    requests: int
    seconds: float
    received: float
    failed: int
    p50: float
    p99: float


def installed() -> bool:
    """Whether it can be had here (Debian's package wrk)."""
    return shutil.which("wrk") is not None and shutil.which("taskset") is not None


def version() -> str:
    """As it says itself."""
    said = subprocess.run(["wrk", "-v"], stdout=subprocess.PIPE, text=True, check=False).stdout
    return said.split()[1]


def script(headers: Mapping[str, str], differing: Differing = "") -> str:
    """The Lua script: these header fields on every request, and one whose value no two requests share."""
    fields = "".join(f"wrk.headers[{json.dumps(name)}] = {json.dumps(said)}\n" for name, said in headers.items())
    return _SCRIPT % {"headers": fields, "request": _REQUEST % _DIFFERING[differing] if differing else ""}


def load(url: str, headers: Mapping[str, str], how: How, directory: Path, size: int | None = None) -> Loaded:
    """Ask for that long; ``directory`` holds the script. ``size`` is the body's, see ``check``; None: any."""
    written = directory / "wrk.lua"
    written.write_text(script(headers, how.differing))
    pinned = ["taskset", "-c", str(how.core)] if how.core is not None else []
    words = ["wrk", "-t1", f"-c{how.connections}", f"-d{max(1, round(how.seconds))}s", "--timeout", "30s", "--latency"]
    done = subprocess.run([*pinned, *words, "-s", str(written), url], stdout=subprocess.PIPE, text=True, check=True)
    loaded = Loaded(**json.loads(done.stdout.splitlines()[-1]))
    assert loaded.failed == 0, loaded
    if size is not None:
        check(loaded, size, how.connections)
    return loaded


def check(loaded: Loaded, size: int, connections: int) -> None:
    """AssertionError unless every answer was whole. Answers under way at the end are counted in bytes only."""
    assert loaded.failed == 0, loaded
    assert loaded.requests > 0, loaded
    least, most = loaded.requests * size, (loaded.requests + connections) * (size + 2048)
    assert least <= loaded.received <= most, (loaded, size)
