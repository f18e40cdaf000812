"""Walks through a directory that a server changes meanwhile: what goes in between is left out."""

from __future__ import annotations

import os
from pathlib import Path


def files_below(directory: Path) -> list[Path]:
    """All files below it, at any depth; ``Path.rglob`` fails where a directory is removed under it."""
    return [Path(place) / name for place, _, names in os.walk(directory) for name in names]
