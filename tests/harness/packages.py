"""Distributions made for a test: valid wheels and sdists that real installers accept, and big blobs.

The same arguments always make the same bytes: dates in archives are fixed, padding follows from the name.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import random
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.harness.bodies import Body, Generated, Held, sha256_of, whole

UPLOADED = "2026-01-02T03:04:05.678901Z"
_ARCHIVE_DATE = (2026, 1, 2, 3, 4, 4)
_ARCHIVE_SECONDS = 1767323044

_WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
_PROJECT = b'[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
_BACKEND = """
import os, shutil, zipfile
WHEEL = {wheel!r}
def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    shutil.copy(os.path.join(os.path.dirname(__file__), "built.whl"), os.path.join(wheel_directory, WHEEL))
    return WHEEL
"""


@dataclass(frozen=True, slots=True)
class Distribution:
    """One file of a project as an index lists it. ``metadata`` is the core metadata, None when it has none;
    ``yanked`` is False, True or the reason."""

    project: str
    version: str
    filename: str
    body: Body
    size: int
    sha256: str
    metadata: bytes | None = None
    requires_python: str | None = None
    yanked: bool | str = False
    upload_time: str | None = UPLOADED

    @property
    def data(self) -> bytes:
        """The whole file; not for blobs."""
        return whole(self.body)

    @property
    def metadata_sha256(self) -> str:
        """Of the core metadata, lower-case hex."""
        return hashlib.sha256(self.metadata or b"").hexdigest()


def normalised(name: str) -> str:
    """The project name as PEP 503 spells it in paths."""
    return "-".join(part for part in name.lower().replace("_", "-").replace(".", "-").split("-") if part)


def core_metadata(
    name: str,
    version: str,
    requires: Sequence[str] = (),
    extras: Mapping[str, Sequence[str]] | None = None,
    requires_python: str | None = None,
) -> bytes:
    """A METADATA file; ``extras`` maps an extra's name to its requirements."""
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", "Summary: made for a test"]
    if requires_python is not None:
        lines.append(f"Requires-Python: {requires_python}")
    lines += [f"Requires-Dist: {requirement}" for requirement in requires]
    for extra, needed in (extras or {}).items():
        lines.append(f"Provides-Extra: {extra}")
        lines += [f"Requires-Dist: {requirement} ; extra == '{extra}'" for requirement in needed]
    return ("\n".join(lines) + "\n").encode()


def wheel(
    name: str,
    version: str = "1.0",
    *,
    requires: Sequence[str] = (),
    extras: Mapping[str, Sequence[str]] | None = None,
    requires_python: str | None = None,
    yanked: bool | str = False,
    padding: int = 0,
    tag: str = "py3-none-any",
    upload_time: str | None = UPLOADED,
) -> Distribution:
    """A pure wheel: a module that says its VERSION, and ``padding`` bytes of noise that do not compress."""
    module = normalised(name).replace("-", "_")
    information = f"{module}-{version}.dist-info"
    metadata = core_metadata(name, version, requires, extras, requires_python)
    members = {
        f"{module}.py": f"VERSION = {version!r}\n".encode(),
        f"{information}/METADATA": metadata,
        f"{information}/WHEEL": f"{_WHEEL}Tag: {tag}\n".encode(),
    }
    if padding:
        members[f"{module}_padding.bin"] = random.Random(f"{name}{version}").randbytes(padding)
    record = "".join(f"{path},sha256={_record_digest(data)},{len(data)}\n" for path, data in members.items())
    members[f"{information}/RECORD"] = f"{record}{information}/RECORD,,\n".encode()
    data = _zip(members)
    return Distribution(
        normalised(name), version, f"{module}-{version}-{tag}.whl", Held(data), len(data),
        hashlib.sha256(data).hexdigest(), metadata, requires_python, yanked, upload_time,
    )  # fmt: skip


def sdist(
    name: str,
    version: str = "1.0",
    *,
    requires: Sequence[str] = (),
    requires_python: str | None = None,
    yanked: bool | str = False,
    upload_time: str | None = UPLOADED,
) -> Distribution:
    """A source distribution that builds with its own backend, so that a build needs nothing from an index."""
    built = wheel(name, version, requires=requires, requires_python=requires_python)
    root = f"{built.filename.removesuffix('-py3-none-any.whl')}"
    metadata = core_metadata(name, version, requires, None, requires_python)
    data = _tar(
        {
            f"{root}/PKG-INFO": metadata,
            f"{root}/pyproject.toml": _PROJECT,
            f"{root}/backend.py": _BACKEND.format(wheel=built.filename).encode(),
            f"{root}/built.whl": built.data,
        }
    )
    return Distribution(
        built.project, version, f"{root}.tar.gz", Held(data), len(data), hashlib.sha256(data).hexdigest(),
        None, requires_python, yanked, upload_time,
    )  # fmt: skip


def blob(name: str, version: str = "1.0", *, size: int, seed: int = 0) -> Distribution:
    """``size`` generated bytes under the name of a wheel: for clients that hash and do not install."""
    body = Generated(size, seed)
    filename = f"{normalised(name).replace('-', '_')}-{version}-py3-none-any.whl"
    return Distribution(normalised(name), version, filename, body, size, sha256_of(body))


def _record_digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def _zip(members: Mapping[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as opened:
        for path, data in members.items():
            opened.writestr(zipfile.ZipInfo(path, _ARCHIVE_DATE), data)
    return archive.getvalue()


def _tar(members: Mapping[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as opened:
        for path, data in members.items():
            member = tarfile.TarInfo(path)
            member.size, member.mtime = len(data), _ARCHIVE_SECONDS
            opened.addfile(member, io.BytesIO(data))
    return gzip.compress(archive.getvalue(), mtime=0)
