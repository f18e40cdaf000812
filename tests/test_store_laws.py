"""The store against a dictionary: any sequence of calls and restarts, with eviction."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from proxy.core.mounted import raw_key
from proxy.core.patterns import ALL, FILES, MOUNTS, RESPONSES, Kind, Selection
from proxy.errors import StoreFailed
from proxy.eviction import BESIDE
from proxy.store import Row, Store
from tests.keeping import body_of, files_in, keep, open_store

ALL_KEYS = [f"key{number}" for number in range(8)]
KEYS = st.sampled_from(ALL_KEYS)
PROJECTS = ("even", "odd")
BODIES = st.integers(0, 260).map(lambda size: bytes([size % 251]) * size)
LIMIT, LOW = 1000, 900
# Each row of a mount counts for a block beside its body: this is room for five.
BLOCK = BESIDE["mounts"]
MOUNTS_LIMIT, MOUNTS_LOW = 5 * BLOCK + 1000, int((5 * BLOCK + 1000) * 0.9)
# Without shrinking, which takes minutes here: the steps of a failure are few enough to read.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)


class StoreAgainstModel(RuleBasedStateMachine):
    """The models keep their keys in the order of last use, the least recent first, as the store does."""

    @initialize()
    def begin(self) -> None:
        """An empty directory."""
        self.runner = asyncio.Runner()
        self.directory = Path(tempfile.mkdtemp())
        self.wheels: dict[str, bytes] = {}
        self.values: dict[str, bytes] = {}
        self.mounts: dict[str, bytes] = {}
        # What was asked for when, counted in removals; and what these took.
        self.marks: dict[str, tuple[int, int]] = {}
        self.removals: list[tuple[frozenset[str], frozenset[Kind]]] = []
        self.store = self._open()

    def _open(self) -> Store:
        limits = {"max_size": LIMIT, "responses_max_size": LIMIT, "mounts_max_size": MOUNTS_LIMIT}
        return self.runner.run(open_store(self.directory / "cache", memory=20_000, **limits))

    @rule(key=KEYS, body=BODIES)
    def adopt(self, key: str, body: bytes) -> None:
        """A body over a quarter of the limit is refused, and one that was removed since it was asked for; others may
        push the oldest out."""
        since, forgotten = self._asked([key], "wheel")
        try:
            self.runner.run(keep(self.store, key, body, tag=tag_of(key), since=since))
        except StoreFailed:
            assert forgotten or len(body) > LIMIT // 4
        else:
            assert not forgotten
            _put(self.wheels, [(key, body)])

    @rule(key=KEYS, body=BODIES)
    def answer(self, key: str, body: bytes) -> None:
        """The same of what a mount answered, where none of these is too large; an unsafe method removes, too."""
        since, forgotten = self._asked([key], "mount")
        try:
            self.runner.run(keep(self.store, raw(key), body, tag=tag_of(key), name=key, room="mounts", since=since))
        except StoreFailed:
            assert forgotten
        else:
            assert not forgotten
            _put(self.mounts, [(key, body)], MOUNTS_LIMIT, MOUNTS_LOW, beside=BLOCK)

    @rule(key=KEYS)
    def invalidate(self, key: str) -> None:
        """One URL goes, and what was asked for of it before."""
        self.runner.run(self.store.invalidate("default", key))
        self.mounts.pop(key, None)
        self.removals.append((frozenset([key]), MOUNTS))

    @rule(key=KEYS)
    def answered(self, key: str) -> None:
        """It is read as it was answered."""
        assert self.runner.run(body_of(self.store, raw(key), "mounts")) == self.mounts.get(key)
        _use(self.mounts, key)

    @rule(rows=st.dictionaries(KEYS, BODIES, max_size=3), drop=st.lists(KEYS, max_size=3))
    def write(self, rows: dict[str, bytes], drop: list[str]) -> None:
        """All of it or nothing."""
        since, forgotten = self._asked(rows, "response")
        written = [Row(key, value, tag_of(key)) for key, value in rows.items()]
        try:
            self.runner.run(self.store.write(written, drop=drop, since=since))
        except StoreFailed:
            assert forgotten or any(len(value) > LIMIT // 4 for value in rows.values())
        else:
            assert not forgotten
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

    @rule(key=KEYS)
    def ask(self, key: str) -> None:
        """It will be kept, or not, when it comes."""
        self.marks[key] = (self.store.mark(), len(self.removals))

    def _asked(self, keys: Iterable[str], kind: Kind) -> tuple[int | None, bool]:
        """The first mark of those keys, and whether one of them was removed since."""
        marks = [self.marks.pop(key) for key in keys if key in self.marks]
        if not marks:
            return None, False
        since, number = min(marks)
        return since, any(kind in kinds and not taken.isdisjoint(keys) for taken, kinds in self.removals[number:])

    @rule(project=st.sampled_from([*PROJECTS, None]), kinds=st.sampled_from([FILES, MOUNTS, RESPONSES, ALL]))
    def forget(self, project: str | None, kinds: frozenset[Kind]) -> None:
        """A selection goes, as it is foretold, from disk and from memory; what covers no key of a room stays."""
        selection = Selection(project=project, kinds=kinds)
        foretold = self.runner.run(self.store.inventory.remove(selection, dry_run=True))
        removed = self.runner.run(self.store.inventory.remove(selection))
        taken = frozenset(key for key in ALL_KEYS if project in (None, tag_of(key).partition("/")[2]))
        models = [self.wheels] * ("wheel" in kinds) + [self.values] * ("response" in kinds)
        models += [self.mounts] * ("mount" in kinds)
        gone = sorted(len(model.pop(key)) for model in models for key in taken if key in model)
        assert sorted(kept.size for kept in removed.files) == gone
        assert (removed.bytes, foretold.files) == (sum(gone), removed.files)
        self.removals.append((taken, kinds))

    @rule()
    def reopen(self) -> None:
        """A restart changes nothing, not even the order of use."""
        self.runner.run(self.store.close())
        self.store = self._open()
        self.marks.clear()

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
        assert (found.mounts.count, found.mounts.bytes) == (len(self.mounts), _size(self.mounts))
        files = files_in(self.directory / "cache/mounts")
        assert sorted(files.values()) == sorted(map(len, self.mounts.values()))

    def teardown(self) -> None:
        """Nothing is left behind."""
        if hasattr(self, "store"):
            self.runner.run(self.store.close())
            self.runner.close()
            shutil.rmtree(self.directory)


def tag_of(key: str) -> str:
    """Every other key is of another project."""
    return f"default/{PROJECTS[int(key[-1]) % 2]}"


def raw(key: str) -> str:
    """The key of what a mount answered."""
    return raw_key("default", key, "")


def _size(model: dict[str, bytes]) -> int:
    return sum(map(len, model.values()))


def _use(model: dict[str, bytes], key: str) -> None:
    if key in model:
        model[key] = model.pop(key)


def _put(
    model: dict[str, bytes], rows: list[tuple[str, bytes]], limit: int = LIMIT, low: int = LOW, *, beside: int = 0
) -> None:
    for key, value in rows:
        model.pop(key, None)
        model[key] = value
    if _size(model) + beside * len(model) > limit:
        for key in [key for key in model if key != rows[-1][0]]:
            if _size(model) + beside * len(model) > low:
                del model[key]


TestStoreAgainstModel = StoreAgainstModel.TestCase
TestStoreAgainstModel.settings = settings(max_examples=20, stateful_step_count=25, deadline=None, phases=PHASES)
