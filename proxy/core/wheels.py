"""Wheels by name: which file is one, and which member of it is its core metadata (binary distribution format)."""

from __future__ import annotations

from packaging.utils import canonicalize_version

from proxy.core.urls import normalise_project

_SUFFIX = ".whl"
_DIRECTORY_SUFFIX = ".dist-info"


def is_wheel(filename: str) -> bool:
    """Whether a file of that name is a wheel."""
    return filename.endswith(_SUFFIX) or filename[-len(_SUFFIX) :].lower() == _SUFFIX


def is_metadata_of(member: str, filename: str) -> bool:
    """Whether the member of that path is the core metadata of the wheel of that name: ``{name}-{version}.dist-info/
    METADATA``, where both are another spelling of the wheel's own at most. Older tools escape less than the format
    asks for, or spell a version as they found it."""
    directory, _, rest = member.partition("/")
    if rest != "METADATA" or not directory.endswith(_DIRECTORY_SUFFIX):
        return False
    project, _, version = directory.removesuffix(_DIRECTORY_SUFFIX).rpartition("-")
    own_project, _, own_rest = filename.partition("-")
    own_version = own_rest.partition("-")[0]
    return normalise_project(project) == normalise_project(own_project) and _plain(version) == _plain(own_version)


def _plain(version: str) -> str:
    # In a file name "_" stands for what a version writes as "-".
    return canonicalize_version(version.replace("_", "-")).lower()
