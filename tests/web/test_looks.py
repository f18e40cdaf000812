"""A list as it is sent: cut where it was asked to end, and made where it holds nobody up."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
import pytest_asyncio

from proxy.answer import Flow
from proxy.core.patterns import RESPONSES, Selection
from proxy.entries import dump_entry
from proxy.inventory import BATCH
from proxy.listed import Listed
from proxy.store import Row, Store
from proxy.web.explain import Explainer
from proxy.web.looks import Looks
from proxy.web.models import ListQuery
from tests.keeping import entry_of, open_store

ROWS = 2 * BATCH + 100
ALL = Selection(kinds=RESPONSES)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def store(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Store]:
    """Rows of which each second one is of the project "even"."""
    opened = await open_store(tmp_path_factory.mktemp("looks") / "cache")
    tags = ("main/even", "main/odd")
    await opened.write([Row(f"page|main|{number:04}", b"x", tags[number % 2]) for number in range(ROWS)])
    yield opened
    await opened.close()


async def listed(store: Store, **query: Any) -> dict[str, Any]:
    """The document."""
    looks = Looks(store, cast(Explainer, None), min_free=0, served=lambda: (0, 0), since=0.0)
    answer = await looks.list(ListQuery.model_validate({"kind": ["response"], **query}), cast(Any, None))
    assert isinstance(answer.body, Flow)
    found: dict[str, Any] = orjson.loads(b"".join([answer.body.first, *[piece async for piece in answer.body.rest]]))
    return found


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("project", [None, "even", "none"])
@pytest.mark.parametrize(
    "limit", [1, 549, 550, 551, BATCH - 1, BATCH, BATCH + 1, 2 * BATCH, ROWS - 1, ROWS, ROWS + 1, 100_000]
)
async def test_a_list_ends_where_it_should(store: Store, limit: int, project: str | None) -> None:
    """However many steps it takes: as long as was asked for, and with a cursor where, and only where, there is more."""
    count = {None: ROWS, "even": ROWS // 2, "none": 0}[project]
    query = {"limit": limit} if project is None else {"limit": limit, "project": project}
    first = await listed(store, **query)
    assert len(first["files"]) == min(limit, count)
    assert (first["cursor"] is None) is (limit >= count)
    if first["cursor"] is not None:
        rest = await listed(store, **{**query, "limit": 100_000}, cursor=first["cursor"])
        assert rest["cursor"] is None
        whole = await listed(store, **{**query, "limit": 100_000})
        assert first["files"] + rest["files"] == whole["files"]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_list_is_written_off_the_loop(store: Store) -> None:
    """Comparing, decoding and writing hold up a thread of their own, one step after the other."""
    threads: list[threading.Thread] = []

    def write(found: Listed) -> int:
        threads.append(threading.current_thread())
        return len(found.kept)

    counts = [count async for count in store.inventory.written(ALL, None, write)]
    assert sum(counts) == ROWS
    assert max(counts) == BATCH
    assert len(set(threads)) == 1
    assert threading.main_thread() not in threads


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ['a"b', "a\\b", "\u00fc", "a?b"])
async def test_what_json_has_to_escape_is_told_as_it_is(tmp_path: Path, name: str) -> None:
    """A head is not always as plain as the short way through it wants."""
    store = await open_store(tmp_path / "cache")
    key = f"page|main|{name}"
    entry = replace(entry_of(key, b"p"), url=f"https://example.com/{name}")
    await store.write([Row(key, dump_entry(entry), "main/odd")])
    (found,) = (await listed(store))["files"]
    assert (found["url"], found["sha256"]) == (entry.url.partition("?")[0], entry.sha256)
    await store.close()
