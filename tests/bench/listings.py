"""Pages of a size, made here: files that nobody asks for, digests that do not compress, as on a real page."""

from __future__ import annotations

import gzip
import hashlib
import json
from dataclasses import dataclass

from tests.harness.behaviours import Answer
from tests.harness.exchange import Exchange
from tests.harness.index import JSON_V1, MODIFIED

_FIELDS = {"Content-Type": JSON_V1, "Cache-Control": "max-age=600, public", "Vary": "Accept, Accept-Encoding"}
SMALL, BIG = 65, 8_600
"""Files on a page of about 10 KB packed, and on one of 2.9 MB unpacked."""


@dataclass(frozen=True, slots=True)
class Listing:
    """A page as the upstream sends it, packed for those who take gzip; after ``delay`` seconds."""

    plain: bytes
    packed: bytes
    delay: float = 0.0

    def __call__(self, exchange: Exchange) -> None:
        packs = "gzip" in exchange.seen.headers.get("accept-encoding", "")
        body = self.packed if packs else self.plain
        tag = hashlib.sha256(body).hexdigest()[:32]
        fields = _FIELDS | {"ETag": f'"{tag}"', "Last-Modified": MODIFIED}
        fields |= {"Content-Encoding": "gzip"} if packs else {}
        Answer(status=200, body=body, headers=fields, delay=self.delay)(exchange)


def listing(project: str, files: int, files_url: str, delay: float = 0.0) -> Listing:
    """The page of a project with so many wheels under ``files_url``."""
    listed = [_file(project, number, files_url) for number in range(files)]
    document = {"meta": {"api-version": "1.1"}, "name": project, "files": listed, "versions": []}
    plain = json.dumps(document).encode()
    return Listing(plain, gzip.compress(plain, 6, mtime=0), delay)


def _file(project: str, number: int, files_url: str) -> dict[str, object]:
    name = f"{project.replace('-', '_')}-1.{number}-py3-none-any.whl"
    first, second = (hashlib.sha256(f"{name} {each}".encode()).hexdigest() for each in range(2))
    return {
        "filename": name,
        "url": f"{files_url}/packages/{first[:2]}/{first[2:4]}/{first[4:]}/{name}",
        "hashes": {"sha256": first},
        "size": 1000 + number,
        "requires-python": ">=3.9",
        "yanked": False,
        "upload-time": "2026-01-02T03:04:05.000006Z",
        "core-metadata": {"sha256": second},
    }
