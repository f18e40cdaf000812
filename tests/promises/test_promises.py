"""Every promise in the size that fits a run of the tests; the table of all is printed at the end of the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.promises.promise import Kept, promises, told

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kept", [pytest.param(each, id=each.PROMISE.name) for each in promises()])
def test_promise(kept: Kept, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """What was measured reaches the goal."""
    measured = kept.measure("ci", tmp_path)
    record_property("promise", told(kept.PROMISE, measured))
    assert not measured.shortfalls, told(kept.PROMISE, measured)
