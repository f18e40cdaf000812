"""What there is on the long day: projects whose releases come and go, and a tree of files. All of it follows from
numbers, so that whoever asks knows what the right answer is, in whatever process."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Self

from tests.harness.bodies import Held
from tests.harness.exchange import Reply, Seen
from tests.harness.index import Index
from tests.harness.packages import Distribution, wheel

WINDOW = 4
"""Releases that a project has at any one time: with a new one the oldest goes."""
TREE = 40
"""Files of the mount."""
KEPT_FOR = {0: "max-age=300", 1: "max-age=60, stale-while-revalidate=600", 2: "no-cache", 3: "no-store"}
"""What the files of the mount say about caching, by the rest of their number."""


def name_of(project: int) -> str:
    """Of the n-th project."""
    return f"soak-{project}"


@lru_cache(maxsize=1500)
def release(project: int, number: int) -> Distribution:
    """The n-th release of a project: tens of kilobytes mostly, megabytes for every 25th project."""
    sizes = random.Random(f"{project}/{number}")
    most = 2_000_000 if project % 25 == 24 else 200_000 if project % 5 == 4 else 40_000
    return wheel(name_of(project), f"{number}.0", padding=sizes.randint(most // 10, most))


def number_of(filename: str) -> tuple[int, int] | None:
    """Which project's which release that file is; None when it is none of them."""
    found = re.fullmatch(r"soak_(\d+)-(\d+)\.0-py3-none-any\.whl", filename)
    return (int(found[1]), int(found[2])) if found else None


@lru_cache(maxsize=TREE)
def leaf(number: int) -> bytes:
    """The n-th file of the mount."""
    return random.Random(f"leaf {number}").randbytes(2_000 + 3_000 * number)


@dataclass(slots=True)
class Day(Index):
    """The index at this moment; ``oldest`` is the number of each project's oldest release, ``changed`` the serial at
    which its page became what it is."""

    oldest: list[int] = field(default_factory=list)
    changed: list[int] = field(default_factory=list)

    @classmethod
    def begun(cls, projects: int) -> Self:
        """With so many projects."""
        day = cls(oldest=[1] * projects, changed=[1] * projects, json_cache_control="max-age=600, public")
        day.distributions = [release(project, 1 + k) for project in range(projects) for k in range(WINDOW)]
        return day

    def publish(self, project: int) -> None:
        """A new release of it, and the oldest goes."""
        old = self.oldest[project]
        gone, new = release(project, old).filename, release(project, old + WINDOW)
        self.distributions = [*(each for each in self.distributions if each.filename != gone), new]
        self.oldest[project] = old + 1
        self.serial += 1
        self.changed[project] = self.serial

    def before(self, project: int) -> Self:
        """The same index as it was before the last publication of this project, as far as that is concerned."""
        old = max(1, self.oldest[project] - 1)
        files = [release(project, old + k) for k in range(WINDOW)]
        serial = max(1, self.changed[project] - 1)
        return type(self)(distributions=files, serial=serial, site_url=self.site_url, files_url=self.files_url)

    def reply(self, seen: Seen) -> Reply:
        """The polite reply to a request."""
        if not seen.path.startswith("/tree/"):
            return Index.reply(self, seen)
        if seen.method == "POST":
            return Reply(200, (("Content-Type", "application/octet-stream"),), Held(seen.body[::-1]))
        number = int(seen.path.rpartition("/")[2])
        reply = self._octets(seen, Held(leaf(number)), f"leaf-{number}")
        return reply.with_header("Cache-Control", KEPT_FOR[number % len(KEPT_FOR)])

    def _file(self, seen: Seen, name: str) -> Reply:
        """Also of a release that no page lists any more, as PyPI does."""
        if (found := number_of(name.removesuffix(".metadata"))) is None:
            return Index._file(self, seen, name)
        each = release(*found)
        if name.endswith(".metadata"):
            return self._octets(seen, Held(each.metadata or b""), each.metadata_sha256[:32])
        return self._octets(seen, each.body, each.sha256[:32])
