"""What is not cached yet: time to the first byte, and to the last, against asking the upstream itself."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.bench.figures import Series, bound, report
from tests.bench.first import Timed
from tests.bench.servers import Server, proxy
from tests.harness.index import JSON_V1
from tests.harness.packages import Distribution, blob, wheel
from tests.harness.server import ROOT
from tests.harness.upstream import Upstream
from tests.harness.waiting import eventually

_PAGES = 20
_FILES = 7
_BIG = 200 * 10**6
_PAGE_MOST = 5.0
_FILE_MOST = 15.0
_FOR_PAGES = {"Accept": JSON_V1, "Accept-Encoding": "gzip"}
Question = tuple[str, Mapping[str, str]]


def timed(questions: Iterable[Question]) -> list[Timed]:
    """The answers of a client process to these questions, one after the other."""
    asked = json.dumps(list(questions))
    command = [sys.executable, "-m", "tests.bench.first"]
    done = subprocess.run(command, cwd=ROOT, input=asked, stdout=subprocess.PIPE, text=True, check=True)
    found = [(first, last, status, size) for first, last, status, size in json.loads(done.stdout)]
    assert all(status == 200 for _, _, status, _ in found), found
    return found


def pages(directory: Path) -> None:
    """A small page nobody has asked for: a handful of files, JSON, gzip."""
    with Upstream() as upstream:
        projects = [f"cold-{number}" for number in range(_PAGES)]
        upstream.index.add(*(wheel(project, str(minor)) for project in [*projects, "known"] for minor in range(8)))
        with proxy(directory, upstream) as server:
            # Both connections stand, and the proxy's own to the upstream: what is compared is one request.
            names = ["known", *projects]
            urls = [f"{base}/simple/{name}/" for name in names for base in (upstream.origin, server.url)]
            times = timed((url, _FOR_PAGES) for url in urls)[2:]
    _added("cold small page, first byte", times, place=0, most=_PAGE_MOST)


def files(directory: Path) -> None:
    """A file of 200 MB whose page is known; each repetition has its own."""
    times: list[Timed] = []
    with Upstream() as upstream:
        upstream.index.add(wheel("known"))
        with proxy(directory, upstream) as server:
            for number in range(_FILES):
                file = blob(f"big{number}", size=_BIG, seed=number)
                upstream.index.add(file)
                times += _one_file(server, upstream, file)
                eventually(lambda name=file.filename: _kept(directory, name), "the file is kept")  # type: ignore[misc]
    _added("cold 200 MB file, first byte", times, place=0, most=_FILE_MOST)
    _added("cold 200 MB file, last byte", times, place=1, most=None)


def _one_file(server: Server, upstream: Upstream, file: Distribution) -> list[Timed]:
    warm: list[Question] = [
        (f"{upstream.files_url}/packages/known/known-1.0-py3-none-any.whl", {}),
        (f"{server.url}/simple/{file.project}/", _FOR_PAGES),
    ]
    location = upstream.location(file)
    return timed([*warm, (f"http://{location}", {}), (f"{server.url}/files/test/{location}", {})])[len(warm) :]


def _kept(directory: Path, name: str) -> bool:
    return any((directory / "cache" / "wheels").rglob(name))


def _added(what: str, times: list[Timed], *, place: int, most: float | None) -> None:
    milliseconds = [1000 * each[place] for each in times]
    direct = Series("direct", milliseconds[0::2], "ms")
    ours = Series("proxy", milliseconds[1::2], "ms")
    added = ours.median - direct.median
    report(what, ours, direct, f"added {added:.2f} ms" + (f", {bound(added, most, 'ms')}" if most else ""))


def run(directory: Path) -> None:
    """All of it."""
    pages(directory / "pages")
    files(directory / "files")
