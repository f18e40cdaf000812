"""Content codings: pages and metadata in zstd and gzip, each made once and kept; files never coded."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from tests.harness.behaviours import Answer, hang_up
from tests.harness.clients import Fresh, uv_install
from tests.harness.exchange import Gate
from tests.harness.fetch import Fetched
from tests.harness.packages import Distribution, core_metadata, sdist, wheel
from tests.harness.waiting import eventually
from tests.harness.world import AS_JSON, HTML, World, fresh_name, listen, world

UV = "gzip, br, zstd, deflate"
PDM = "gzip, deflate"
CODINGS = {"zstd": UV, "gzip": PDM, "": "identity"}
REQUIRES = tuple(f"project-{number}>={number}" for number in range(40))
METADATA = ".metadata"


@pytest.fixture(scope="module")
def here(lane: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One proxy that most tests share."""
    with world(tmp_path_factory.mktemp("codings"), {"freshness": {"min_reload_interval": "0s"}}) as made:
        yield made


def with_metadata(metadata: bytes) -> Distribution:
    """A wheel whose page promises that core metadata."""
    return replace(wheel(fresh_name()), metadata=metadata)


def listed(here: World, file: Distribution | None = None) -> Distribution:
    """A wheel with metadata worth coding, whose page was looked at."""
    made = here.publish(file or wheel(fresh_name(), requires=REQUIRES))
    assert here.page(made.project).status == 200
    return made


def metadata(here: World, file: Distribution, accepted: str, method: str = "GET", **more: str) -> Fetched:
    """The file's metadata for a client that accepts those codings."""
    return here.file(file, {"Accept-Encoding": accepted, **more}, method, suffix=METADATA)


def kept(here: World, file: Distribution) -> None:
    """Waits until the metadata as it came is in the store."""
    eventually(lambda: metadata(here, file, "identity").hit, "the metadata is kept")


def page(here: World, project: str, coding: str, accept: str = "") -> Fetched:
    """The page in that coding, as JSON unless said otherwise."""
    headers = {"Accept": accept} if accept else AS_JSON
    return here.page(project, {**headers, "Accept-Encoding": CODINGS[coding]})


def rows(here: World, like: str) -> list[str]:
    """Keys of the responses that match, while the proxy does not run."""
    with closing(sqlite3.connect(here.proxy.cache / "responses" / "cache.db")) as connection:
        found = connection.execute("SELECT key FROM Cache WHERE key LIKE ? ORDER BY key", (like,)).fetchall()
    return [key for (key,) in found]


def tags(here: World, like: str) -> set[str]:
    """Under which tags they lie: what is purged by project goes by its tag."""
    with closing(sqlite3.connect(here.proxy.cache / "responses" / "cache.db")) as connection:
        return {tag for (tag,) in connection.execute("SELECT tag FROM Cache WHERE key LIKE ?", (like,))}


def evict(here: World, like: str) -> None:
    """Drop rows, while the proxy does not run."""
    with closing(sqlite3.connect(here.proxy.cache / "responses" / "cache.db")) as connection, connection:
        assert connection.execute("DELETE FROM Cache WHERE key LIKE ?", (like,)).rowcount > 0


# --- pages


@pytest.mark.parametrize("accept", ["", HTML])
def test_a_page_of_a_thousand_files(here: World, accept: str) -> None:
    """The same document in every coding, smaller in zstd than in gzip; each made once, for a crowd as well."""
    name = fresh_name()
    here.publish(*(wheel(name, f"1.{minor}") for minor in range(1000)))
    gate = Gate()
    here.script(name, Answer(held=gate))
    headers = [f"Accept: {accept or AS_JSON['Accept']}", f"Accept-Encoding: {UV}"]
    crowd = here.all_at_once(f"/simple/{name}/", 8, gate, headers)
    got = {coding: page(here, name, coding, accept) for coding in CODINGS}
    assert {(each.status, each.body, each.headers["etag"]) for each in crowd} == {
        (200, got["zstd"].body, got["zstd"].headers["etag"])
    }
    assert {each.headers["content-encoding"] for each in crowd} == {"zstd"}
    assert len({each.decoded for each in got.values()}) == 1
    assert len({each.headers["etag"] for each in got.values()}) == 3
    assert got["zstd"].decoded.count(b"-py3-none-any.whl") >= 1000
    assert len(got["zstd"].body) < len(got["gzip"].body) < len(got[""].body)
    for coding, first in got.items():
        again = page(here, name, coding, accept)
        assert (again.hit, again.body, again.headers["etag"]) == (True, first.body, first.headers["etag"])
    assert len(here.page_requests(name)) == 1


def test_a_client_that_switches_its_coding(here: World) -> None:
    """The ETag of one coding says nothing of another: 304 for its own, 200 for the others."""
    name = fresh_name()
    here.publish(wheel(name))
    tags = {coding: page(here, name, coding).headers["etag"] for coding in CODINGS}
    for held, tag in tags.items():
        for coding in CODINGS:
            got = here.page(name, {**AS_JSON, "Accept-Encoding": CODINGS[coding], "If-None-Match": tag})
            assert (got.status, got.headers["etag"]) == (304 if coding == held else 200, tags[coding])
            assert got.headers["vary"] == "Accept, Accept-Encoding"


def test_renditions_last_as_long_as_their_page(here: World) -> None:
    """One row per coding (identity has none), across a restart without the upstream; a new version drops them all."""
    name = fresh_name()
    here.publish(wheel(name))
    first = {(coding, accept): page(here, name, coding, accept) for coding in CODINGS for accept in ("", HTML)}
    here.proxy.terminate()
    renditions = f"page|test|{name}|%"
    made = rows(here, renditions)
    assert (len(made), tags(here, renditions)) == (4, {f"test/{name}"})
    assert [key for key in made if key.endswith("|zstd")] == [f"{key}|zstd" for key in made if f"{key}|zstd" in made]
    here.proxy.start()
    here.script(name, hang_up)
    for (coding, accept), before in first.items():
        again = page(here, name, coding, accept)
        assert (again.hit, again.body, again.headers) == (True, before.body, dict(before.headers) | aging(again))
    here.script(name)
    here.publish(wheel(name, "2.0"))
    changed = here.page(name, {**AS_JSON, "Accept-Encoding": UV, "Cache-Control": "no-cache"})
    assert b"2.0-py3" in changed.decoded
    here.proxy.terminate()
    assert len(rows(here, renditions)) == 2
    assert not set(rows(here, renditions)) & set(made)
    here.proxy.start()


def aging(answer: Fetched) -> dict[str, str]:
    """Those headers of an answer that change with time."""
    return {name: answer.headers[name] for name in ("age", "date", "cache-status") if name in answer.headers}


GONE = {"zstd": "|zstd", "gzip": "|json|2", "both": ""}


@pytest.mark.parametrize("gone", GONE)
def test_an_evicted_rendition_is_made_again(here: World, gone: str) -> None:
    """From the one that is left, with the same bytes and ETag; when the base is gone, too, from the upstream."""
    name = fresh_name()
    here.publish(wheel(name))
    first = {coding: page(here, name, coding) for coding in CODINGS}
    here.proxy.terminate()
    evict(here, f"page|test|{name}|%{GONE[gone]}")
    here.proxy.start()
    again = {coding: page(here, name, coding) for coding in CODINGS}
    assert {coding: (each.status, each.body, each.headers["etag"]) for coding, each in again.items()} == {
        coding: (200, each.body, each.headers["etag"]) for coding, each in first.items()
    }
    assert len(here.page_requests(name)) == (1 if gone == "zstd" else 2)


# --- metadata


def test_metadata_in_every_coding(here: World) -> None:
    """What a client decodes is the file's own, whatever it accepts; asked for upstream once, made once."""
    file = listed(here)
    cold = metadata(here, file, UV)
    assert (cold.status, cold.headers["content-encoding"], cold.decoded) == (200, "zstd", file.metadata)
    assert "fwd=uri-miss" in cold.headers["cache-status"]
    kept(here, file)
    got = {coding: metadata(here, file, accepted) for coding, accepted in CODINGS.items()}
    for coding, each in got.items():
        assert (each.status, each.headers.get("content-encoding", "")) == (200, coding)
        assert (each.decoded, each.hit) == (file.metadata, True)
        assert each.headers["vary"] == "Accept-Encoding"
        assert each.headers["content-length"] == str(len(each.body))
        again = metadata(here, file, CODINGS[coding])
        assert (again.body, again.headers) == (each.body, dict(each.headers) | aging(again))
    assert len({each.headers["etag"] for each in (cold, *got.values())}) == 3
    assert got[""].headers["etag"] == f'"sha256-{file.metadata_sha256}"'
    assert (cold.body, cold.headers["etag"]) == (got["zstd"].body, got["zstd"].headers["etag"])
    assert len(got["zstd"].body) < len(got[""].body) / 2
    assert len(here.file_requests(file, METADATA)) == 1


@pytest.mark.parametrize("coding", CODINGS)
def test_head_of_metadata(here: World, coding: str) -> None:
    """As GET says it, coded or not; what is not cached is not fetched for a HEAD, and said as it is."""
    file = listed(here)
    cold = metadata(here, file, CODINGS[coding], "HEAD")
    assert (cold.status, cold.body, cold.headers["content-length"]) == (200, b"", str(len(file.metadata or b"")))
    assert (cold.headers["etag"], cold.headers["vary"]) == (f'"sha256-{file.metadata_sha256}"', "Accept-Encoding")
    assert "content-encoding" not in cold.headers
    assert [each.method for each in here.file_requests(file, METADATA)] == ["HEAD"]
    kept(here, file)
    head = metadata(here, file, CODINGS[coding], "HEAD")
    whole = metadata(here, file, CODINGS[coding])
    assert (head.status, head.body) == (200, b"")
    assert head.headers == dict(whole.headers) | aging(head)
    assert head.headers.get("content-encoding", "") == coding


@pytest.mark.parametrize("state", ["cached", "cold"])
@pytest.mark.parametrize("coding", CODINGS)
def test_metadata_not_modified(here: World, coding: str, state: str) -> None:
    """304 for the ETag of the very coding, cached or not, 200 for that of another."""
    file = listed(here)
    if state == "cached":
        kept(here, file)
    mark = {"": "", "zstd": "-z", "gzip": "-g"}
    for held in ("", "zstd", "gzip"):
        tag = f'"sha256-{file.metadata_sha256}{mark[held]}"'
        got = metadata(here, file, CODINGS[coding], **{"If-None-Match": f'"other", {tag}'})
        assert got.status == (304 if held == coding else 200)
        assert got.headers["etag"] == f'"sha256-{file.metadata_sha256}{mark[coding]}"'
        assert got.headers["vary"] == "Accept-Encoding"
        assert ("content-encoding" in got.headers) is (held != coding and coding != "")
        assert got.body == b"" if held == coding else got.decoded == file.metadata


@pytest.mark.parametrize("state", ["cached", "cold"])
def test_a_range_of_metadata_is_one_of_the_metadata(here: World, state: str) -> None:
    """Never of coded bytes, which nobody could join to others."""
    file = listed(here)
    assert file.metadata is not None
    if state == "cached":
        assert metadata(here, file, UV).headers["content-encoding"] == "zstd"
        kept(here, file)
    got = metadata(here, file, UV, Range="bytes=5-24")
    assert (got.status, got.body) == (206, file.metadata[5:25])
    assert got.headers["content-range"] == f"bytes 5-24/{len(file.metadata)}"
    assert (got.headers["vary"], "content-encoding" in got.headers) == ("Accept-Encoding", False)
    coded = metadata(here, file, UV)
    joined = metadata(here, file, UV, Range="bytes=5-24", **{"If-Range": coded.headers["etag"]})
    assert "accept-ranges" not in coded.headers
    assert (joined.status, joined.body) == (200, file.metadata)


NOISE = random.Random(1).randbytes(3000)


@pytest.mark.parametrize("content", [b"", b"x", NOISE], ids=["nothing", "tiny", "noise"])
def test_what_coding_does_not_make_smaller_is_sent_as_it_is(here: World, content: bytes) -> None:
    """Same bytes, same ETag as for a client that asked for no coding."""
    file = listed(here, with_metadata(content))
    for _ in range(2):
        for accepted in CODINGS.values():
            got = metadata(here, file, accepted)
            assert (got.status, got.body, "content-encoding" in got.headers) == (200, content, False)
            assert got.headers["etag"] == f'"sha256-{file.metadata_sha256}"'
        kept(here, file)
    assert len(here.file_requests(file, METADATA)) == 1


def test_long_metadata_is_not_waited_for(here: World) -> None:
    """While it arrives it is sent as it comes; once it is cached it is coded, up to 4 MiB."""
    readme = random.Random(2).choices(["words ", "of a ", "long ", "description\n"], k=60_000)
    long = with_metadata(core_metadata("x", "1.0") + b"\n" + "".join(readme).encode())
    longer = with_metadata(b"Name: x\n" * 600_000)
    for file, coding in ((long, "zstd"), (longer, None)):
        listed(here, file)
        cold = metadata(here, file, UV)
        assert (cold.body, cold.headers.get("content-encoding")) == (file.metadata, None)
        kept(here, file)
        warm = metadata(here, file, UV)
        assert (warm.decoded, warm.headers.get("content-encoding")) == (file.metadata, coding)
        assert len(here.file_requests(file, METADATA)) == 1


def test_wrong_metadata_is_not_coded_either(here: World) -> None:
    """A body that fails its hash is a 502 in every coding, and nothing of it is kept."""
    file = listed(here)
    here.script_file(file, Answer(corrupt=5), suffix=METADATA)
    assert metadata(here, file, UV).status == 502
    here.script_file(file, suffix=METADATA)
    assert metadata(here, file, UV).decoded == file.metadata


def test_a_crowd_for_cold_metadata(here: World) -> None:
    """One upstream request, and one coding of it for all of them."""
    file = listed(here)
    gate = Gate()
    here.script_file(file, Answer(held=gate), suffix=METADATA)
    crowd = here.all_at_once(here.path_of(file, METADATA), 6, gate, [f"Accept-Encoding: {UV}"])
    assert {(each.status, each.headers.get("content-encoding")) for each in crowd} == {(200, "zstd")}
    assert {each.body for each in crowd} == {metadata(here, file, UV).body}
    assert sum("collapsed" in each.headers["cache-status"] for each in crowd) == 5
    assert len(here.file_requests(file, METADATA)) == 1


def test_metadata_that_one_client_does_not_want_fetched(here: World) -> None:
    """Only that client is refused (only-if-cached), not those who ask in the same moment."""
    for _ in range(10):
        file = listed(here)
        request = f"GET {here.path_of(file, METADATA)} HTTP/1.1\r\nHost: x\r\nAccept-Encoding: {UV}\r\n"
        with here.connect() as unwilling, here.connect() as other:
            unwilling.sendall(f"{request}Cache-Control: only-if-cached\r\nConnection: close\r\n\r\n".encode())
            other.sendall(f"{request}Connection: close\r\n\r\n".encode())
            assert (listen(unwilling).status, listen(other).status) == (504, 200)


def test_coded_metadata_lasts(here: World) -> None:
    """One small row per coding, tagged as its project's; the same bytes after a restart, and after an eviction."""
    file = listed(here)
    first = {coding: metadata(here, file, accepted) for coding, accepted in CODINGS.items()}
    kept(here, file)
    here.proxy.terminate()
    pattern = f"metadata|test|%{file.filename}|%"
    made = rows(here, pattern)
    assert [key.rpartition("|")[2] for key in made if key.endswith(("|zstd", "|gzip"))] == ["gzip", "zstd"]
    assert (len(made), tags(here, pattern)) == (3, {f"test/{file.project}"})
    evict(here, f"{pattern}|zstd")
    here.proxy.start()
    for coding, before in first.items():
        again = metadata(here, file, CODINGS[coding])
        assert (again.hit, again.body, again.headers["etag"]) == (True, before.body, before.headers["etag"])
    here.proxy.terminate()
    assert rows(here, pattern) == made
    here.proxy.start()
    assert len(here.file_requests(file, METADATA)) == 1


def test_metadata_without_a_hash(here: World) -> None:
    """Its first whole copy is pinned; the ETags of its codings are made of the hash it turned out to have."""
    here.upstream.index.hashes = False
    try:
        file = listed(here)
    finally:
        here.upstream.index.hashes = True
    got = metadata(here, file, UV)
    assert (got.decoded, got.headers["etag"]) == (file.metadata, f'"sha256-{file.metadata_sha256}-z"')


def test_a_store_that_keeps_nothing(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Costs the keeping and no more: pages and metadata come coded all the same."""
    with world(tmp_path_factory.mktemp("full"), {"cache": {"responses_max_size": "1KB"}}) as here:
        file = listed(here, wheel("six", requires=REQUIRES))
        for coding in CODINGS:
            for _ in range(2):
                shown = page(here, "six", coding)
                assert (shown.status, shown.headers.get("content-encoding", "")) == (200, coding)
                assert file.filename.encode() in shown.decoded
                assert not shown.hit
                got = metadata(here, file, CODINGS[coding])
                assert (got.status, got.headers.get("content-encoding", "")) == (200, coding)
                assert (got.hit, got.decoded) == (False, file.metadata)


def test_uv_installs_from_zstd(here: World, fresh: Callable[[], Fresh]) -> None:
    """It asks for zstd where there is metadata and a page to be had, and what it decodes hashes right."""
    leaf, top = fresh_name(), fresh_name()
    files = [wheel(leaf), wheel(top, requires=[leaf])]
    here.publish(*files)
    client = fresh()
    done = uv_install(client, here.proxy.index_url, top)
    assert done.returncode == 0, done.stdout
    assert client.version_of(leaf.replace("-", "_")) == "1.0"
    here.proxy.terminate()
    for file in files:
        assert rows(here, f"page|test|{file.project}|%|zstd")
        assert rows(here, f"metadata|test|%{file.filename}|%|zstd")
    here.proxy.start()


# --- files


@pytest.mark.parametrize("accepted", [UV, PDM])
@pytest.mark.parametrize("make", [wheel, sdist])
def test_files_are_never_coded(here: World, make: Callable[..., Distribution], accepted: str) -> None:
    """PDM asks for gzip on files and hashes what it gets: the file, cold and cached, GET and HEAD."""
    file = make(fresh_name(), requires=REQUIRES)
    listed(here, file)
    seen = [here.file(file, {"Accept-Encoding": accepted})]
    eventually(lambda: here.kept(file), "the file is kept")
    seen += [here.file(file, {"Accept-Encoding": accepted}, method) for method in ("GET", "HEAD")]
    assert [each.sha256 for each in seen[:2]] == [file.sha256] * 2
    for each in seen:
        assert each.headers["content-length"] == str(file.size)
        assert (each.headers["etag"], "content-encoding" in each.headers) == (f'"sha256-{file.sha256}"', False)
