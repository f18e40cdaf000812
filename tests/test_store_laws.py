"""The store against a dictionary: any sequence of calls and restarts, with eviction."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from proxy.errors import StoreFailed
from proxy.store import Row, Store
from tests.keeping import TAG, body_of, files_in, keep, open_store

KEYS = st.sampled_from([f"key{number}" for number in range(8)])
BODIES = st.integers(0, 260).map(lambda size: bytes([size % 251]) * size)
LIMIT, LOW = 1000, 900
# Without shrinking, which takes minutes here: the steps of a failure are few enough to read.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)


class StoreAgainstModel(RuleBasedStateMachine):
    """Both models keep their keys in the order of last use, the least recent first, as the store does."""

    @initialize()
    def begin(self) -> None:
        """An empty directory."""
        self.runner = asyncio.Runner()
        self.directory = Path(tempfile.mkdtemp())
        self.wheels: dict[str, bytes] = {}
        self.values: dict[str, bytes] = {}
        self.store = self._open()

    def _open(self) -> Store:
        work = open_store(self.directory / "cache", max_size=LIMIT, responses_max_size=LIMIT, memory=20_000)
        return self.runner.run(work)

    @rule(key=KEYS, body=BODIES)
    def adopt(self, key: str, body: bytes) -> None:
        """A body over a quarter of the limit is refused; others may push the oldest out."""
        try:
            self.runner.run(keep(self.store, key, body))
        except StoreFailed:
            assert len(body) > LIMIT // 4
        else:
            _put(self.wheels, [(key, body)])

    @rule(rows=st.dictionaries(KEYS, BODIES, max_size=3), drop=st.lists(KEYS, max_size=3))
    def write(self, rows: dict[str, bytes], drop: list[str]) -> None:
        """All of it or nothing."""
        work = self.store.write([Row(key, value, TAG) for key, value in rows.items()], drop=drop)
        try:
            self.runner.run(work)
        except StoreFailed:
            assert any(len(value) > LIMIT // 4 for value in rows.values())
        else:
            for key in drop:
                self.values.pop(key, None)
            _put(self.values, list(rows.items()))

    @rule(key=KEYS)
    def read(self, key: str) -> None:
        """A value is read as it was written."""
        assert self.runner.run(self.store.read(key)) == self.values.get(key)
        _use(self.values, key)

    @rule(key=KEYS)
    def stored(self, key: str) -> None:
        """A body is read as it was adopted."""
        assert self.runner.run(body_of(self.store, key)) == self.wheels.get(key)
        _use(self.wheels, key)

    @rule(keys=st.lists(KEYS, max_size=3, unique=True))
    def remove(self, keys: list[str]) -> None:
        """The bytes freed are those of the bodies."""
        freed = sum(len(self.wheels.pop(key, b"")) for key in keys)
        assert self.runner.run(self.store.remove("wheels", keys)) == freed

    @rule()
    def reopen(self) -> None:
        """A restart changes nothing, not even the order of use."""
        self.runner.run(self.store.close())
        self.store = self._open()

    @invariant()
    def agrees(self) -> None:
        """The books, the disk and the model say the same."""
        if not hasattr(self, "store"):
            return
        found = self.store.stats()
        assert (found.wheels.count, found.wheels.bytes) == (len(self.wheels), _size(self.wheels))
        assert (found.responses.count, found.responses.bytes) == (len(self.values), _size(self.values))
        files = files_in(self.directory / "cache/wheels")
        assert sorted(files.values()) == sorted(map(len, self.wheels.values()))

    def teardown(self) -> None:
        """Nothing is left behind."""
        if hasattr(self, "store"):
            self.runner.run(self.store.close())
            self.runner.close()
            shutil.rmtree(self.directory)


def _size(model: dict[str, bytes]) -> int:
    return sum(map(len, model.values()))


def _use(model: dict[str, bytes], key: str) -> None:
    if key in model:
        model[key] = model.pop(key)


def _put(model: dict[str, bytes], rows: list[tuple[str, bytes]]) -> None:
    for key, value in rows:
        model.pop(key, None)
        model[key] = value
    if _size(model) > LIMIT:
        for key in [key for key in model if key != rows[-1][0]]:
            if _size(model) > LOW:
                del model[key]


TestStoreAgainstModel = StoreAgainstModel.TestCase
TestStoreAgainstModel.settings = settings(
    max_examples=20, stateful_step_count=25, deadline=None, phases=PHASES
)
