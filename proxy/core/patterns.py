"""What an operator names: pip's patterns over file names, and filters beside them.

``pip cache``: a name without ``-`` is a project's (``docopt`` matches ``docopt-*.whl``), one with ``-`` globs the
names of wheels (``docopt-0.6*``); case counts, and nothing is normalised. pip keeps wheels alone; whatever else lies
here is named by its project, in any spelling of it; what a mount answered by the name of its file, as a plain glob.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache
from typing import Literal

from packaging.version import InvalidVersion, Version

from proxy.core.mounted import raw_name
from proxy.core.urls import METADATA_SUFFIX, normalise_project
from proxy.core.wheels import is_wheel

Kind = Literal["wheel", "sdist", "response", "mount"]
FILES: frozenset[Kind] = frozenset({"wheel", "sdist"})
RESPONSES: frozenset[Kind] = frozenset({"response"})
MOUNTS: frozenset[Kind] = frozenset({"mount"})
ALL: frozenset[Kind] = FILES | RESPONSES | MOUNTS
EVERYTHING = "*"
REMEMBERED = 1024
"""Patterns kept compiled: all that the fence remembers, and those being listed."""
_SUFFIX = re.compile(r"(\.tar\.[a-z0-9]+|\.[a-z]+)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Selection:
    """Whatever ``pattern`` matches, as far as the filters let it through; ``project`` is normalised (PEP 503)."""

    pattern: str = EVERYTHING
    project: str | None = None
    version: str | None = None
    index: str | None = None
    kinds: frozenset[Kind] = ALL

    def covers(self, kind: Kind, index: str, project: str, filename: str | None) -> bool:
        """Whether it names that: a wheel or an sdist by its file name, a response with one (core metadata) or
        without (a page), what a mount answered by its ``rest`` (`core.mounted`); there the index is the mount.
        ``project`` is "" for what belongs to none: an index's list, and all of a mount."""
        if kind not in self.kinds or self.index not in (None, index) or self.project not in (None, project):
            return False
        if kind == "mount" and filename is not None:
            filename = raw_name(filename)
        if self.version is not None and not _same(self.version, version_of(filename, project)):
            return False
        if self.pattern == EVERYTHING:
            return True
        if kind == "wheel" and filename is not None:
            return _matches(filename, self.pattern + ("*.whl" if "-" in self.pattern else "-*.whl"))
        if kind == "mount":
            return filename is not None and _matches(filename, self.pattern)
        return bool(project) and self._names(project)

    def _names(self, project: str) -> bool:
        if "-" in self.pattern:
            return normalise_project(self.pattern) == project
        return _matches(project, normalise_project(self.pattern))


def _matches(name: str, glob: str) -> bool:
    return _glob(glob)(name) is not None


# Not fnmatchcase: it keeps 32,768 of them, and clients make them up.
@lru_cache(maxsize=REMEMBERED)
def _glob(glob: str) -> Callable[[str], re.Match[str] | None]:
    return re.compile(translate(glob)).match


def kind_of(filename: str) -> Kind:
    """What a body in ``wheels/`` of that name is: whatever is no wheel counts as an sdist, as in the Simple API."""
    return "wheel" if is_wheel(filename) else "sdist"


def version_of(filename: str | None, project: str) -> str | None:
    """The version in the name of a project's file, or of the core metadata of one; None when there is none."""
    if filename is None:
        return None
    name = filename.removesuffix(METADATA_SUFFIX)
    if is_wheel(name):
        parts = name.split("-", 2)
        return parts[1] if len(parts) > 2 else None
    if not project:
        return None
    name_and_version = _SUFFIX.sub("", name)
    if name_and_version.startswith(project + "-") and not name.lower().endswith(".egg"):
        # As today's tools write it; what is below says the same, and takes longer.
        return name_and_version[len(project) + 1 :] or None
    words = name_and_version.split("-")
    for cut in range(1, len(words)):
        # Old names of sdists are ambiguous; whose file it is tells where its version begins.
        if normalise_project("-".join(words[:cut])) == project:
            # Behind an egg's version stand the Python and the platform it is for.
            return words[cut] if name.lower().endswith(".egg") else "-".join(words[cut:]) or None
    return None


def _same(wanted: str, found: str | None) -> bool:
    """PEP 440: ``1.0`` is ``1.0.0``. What is no version is compared as text."""
    if found is None:
        return False
    try:
        return Version(wanted) == Version(found.replace("_", "-"))
    except InvalidVersion:
        return wanted == found
