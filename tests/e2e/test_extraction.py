"""Upstreams that copy pages and wheels but no ``.metadata``: what a page advertises is taken out of the wheel."""

from __future__ import annotations

import hashlib
import io
import random
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import pytest

from tests.harness.behaviours import Answer, Behaviour, busy, hang_up
from tests.harness.bodies import Held
from tests.harness.clients import Fresh, Installer
from tests.harness.exchange import Gate
from tests.harness.fetch import Fetched
from tests.harness.packages import Distribution, core_metadata, sdist, wheel
from tests.harness.waiting import eventually
from tests.harness.world import World, fresh_name, world

METADATA = ".metadata"
ZSTD = {"Accept-Encoding": "zstd"}
REQUIRES = tuple(f"project-{number}>={number}" for number in range(40))
LACKING = Answer(status=404, body=b"no such file", without=("ETag", "Cache-Control"))
BIG = 2**20
SETTINGS = {"freshness": {"min_reload_interval": "0s"}, "limits": {"range_fill_max": "1MiB"}}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One proxy that most tests share; a wheel of more than 1 MiB is a big one."""
    with world(tmp_path_factory.mktemp("extraction"), SETTINGS) as made:
        yield made


def lacking(here: World, file: Distribution, answer: Behaviour = LACKING) -> Distribution:
    """A file whose page was looked at, and whose advertised metadata the upstream does not have."""
    here.publish(file)
    here.script_file(file, answer, suffix=METADATA)
    assert here.page(file.project).status == 200
    return file


def metadata(here: World, file: Distribution, headers: Mapping[str, str] | None = None, method: str = "GET") -> Fetched:
    """The file's metadata through the proxy."""
    return here.file(file, headers, method, suffix=METADATA)


def wheels_fetched(here: World, file: Distribution) -> int:
    """How often the upstream was asked for the file itself."""
    return len(here.file_requests(file))


def cached(here: World, file: Distribution) -> Distribution:
    """The file, fetched and kept."""
    assert here.file(file).sha256 == file.sha256
    eventually(lambda: here.file(file).hit, "the wheel is kept")
    return file


def of(file: Distribution, data: bytes) -> Distribution:
    """The same file with another body."""
    return replace(file, body=Held(data), size=len(data), sha256=hashlib.sha256(data).hexdigest())


def zipped(members: list[tuple[str, bytes]]) -> bytes:
    """A zip archive; a name may come twice."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, data in members:
            opened.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return archive.getvalue()


@contextmanager
def pages(here: World, *formats: str, hashes: bool = True) -> Iterator[None]:
    """Pages in these formats only, of which HTML tells no sizes; or without hashes."""
    index = here.upstream.index
    index.formats, index.hashes = formats, hashes
    try:
        yield
    finally:
        index.formats, index.hashes = ("json", "html"), True


@pytest.mark.parametrize("status", [404, 410])
def test_metadata_that_the_upstream_lacks(here: World, status: int) -> None:
    """Byte for byte what is in the wheel, with the hash its page lists; the wheel is fetched once, and kept."""
    file = lacking(here, wheel(fresh_name(), requires=REQUIRES), replace(LACKING, status=status))
    got = metadata(here, file)
    assert (got.status, got.body, got.headers["etag"]) == (200, file.metadata, f'"sha256-{file.metadata_sha256}"')
    assert (got.hit, "stored" in got.headers["cache-status"]) == (False, True)
    eventually(lambda: metadata(here, file).hit, "the metadata is kept")
    again = metadata(here, file)
    assert (again.body, again.headers["etag"]) == (file.metadata, got.headers["etag"])
    assert (wheels_fetched(here, file), len(here.file_requests(file, METADATA))) == (1, 1)
    eventually(lambda: here.file(file).hit, "the wheel is kept")
    assert here.file(file).sha256 == file.sha256
    assert wheels_fetched(here, file) == 1


def test_in_every_form(here: World) -> None:
    """Coded, a part of it, its head alone, not modified: as if the upstream had it, cold and kept."""
    for headers, method, status in [
        ({"Accept-Encoding": "gzip"}, "GET", 200),
        (ZSTD, "GET", 200),
        ({}, "HEAD", 200),
        ({"Range": "bytes=5-24"}, "GET", 206),
    ]:
        file = lacking(here, wheel(fresh_name(), requires=REQUIRES))
        assert file.metadata is not None
        for _ in range(2):
            got = metadata(here, file, headers, method)
            assert got.status == status
            assert got.headers.get("content-encoding") == headers.get("Accept-Encoding")
            if method == "HEAD":
                assert (got.body, got.headers["content-length"]) == (b"", str(len(file.metadata)))
            else:
                assert got.decoded == (file.metadata[5:25] if status == 206 else file.metadata)
            eventually(lambda: metadata(here, file, method="HEAD").hit, "the metadata is kept")  # noqa: B023 - now
        assert metadata(here, file, {"If-None-Match": f'"sha256-{file.metadata_sha256}"'}).status == 304
        assert wheels_fetched(here, file) == 1


def test_it_survives_a_restart(here: World) -> None:
    """A plain hit, without a question to anybody."""
    file = lacking(here, wheel(fresh_name(), requires=REQUIRES))
    coded = metadata(here, file, ZSTD)
    eventually(lambda: metadata(here, file).hit, "the metadata is kept")
    here.proxy.terminate()
    here.proxy.start()
    here.upstream.forget()
    for headers in ({}, ZSTD):
        got = metadata(here, file, headers)
        assert (got.hit, got.decoded) == (True, file.metadata)
    assert metadata(here, file, ZSTD).body == coded.body
    assert here.upstream.log == []


@pytest.mark.parametrize("installer", ["pip-newest", "uv"], indirect=True)
def test_installing(installer: Installer, here: World, fresh: Callable[[], Fresh]) -> None:
    """What an advertised and missing ``.metadata`` makes impossible otherwise."""
    leaf, top = fresh_name(), fresh_name()
    files = [wheel(leaf), wheel(top, requires=[leaf]), wheel(top, "0.9", requires=["nothing-of-that-name"])]
    for file in files:
        lacking(here, file)
    client = fresh()
    done = installer.install(client, here.proxy.index_url, top)
    assert done.returncode == 0, done.stdout
    assert client.version_of(leaf.replace("-", "_")) == client.version_of(top.replace("-", "_")) == "1.0"
    assert [wheels_fetched(here, file) for file in files[:2]] == [1, 1]
    assert here.file_requests(files[0], METADATA)


def test_a_crowd(here: World) -> None:
    """50 clients, one wheel, one look into it."""
    file = lacking(here, wheel(fresh_name(), requires=REQUIRES))
    gate = Gate()
    here.script_file(file, Answer(held=gate))
    crowd = here.all_at_once(here.path_of(file, METADATA), 50, gate, [])
    assert {(each.status, each.body) for each in crowd} == {(200, file.metadata)}
    assert sum("collapsed" in each.headers["cache-status"] for each in crowd) == 49
    assert wheels_fetched(here, file) == 1


@pytest.mark.parametrize("size", [100_000, 5_000_000])
def test_long_metadata(here: World, size: int) -> None:
    """More than is coded on its first way out, and more than is ever coded."""
    name = fresh_name()
    words = "".join(random.Random(size).choices(["words ", "and ", "more\n"], k=size // 5))
    long = core_metadata(name, "1.0") + b"\n" + words.encode()
    file = of(wheel(name), zipped([(f"{name.replace('-', '_')}-1.0.dist-info/METADATA", long)]))
    lacking(here, replace(file, metadata=long))
    for headers in (ZSTD, {}):
        assert metadata(here, file, headers).decoded == long
    assert wheels_fetched(here, file) == 1


def test_without_hashes(here: World) -> None:
    """A page that lists none: the first whole copy of the wheel is pinned, and so is what was in it."""
    with pages(here, "json", hashes=False):
        file = lacking(here, wheel(fresh_name(), requires=REQUIRES))
        assert metadata(here, file).body == file.metadata


def test_a_store_that_keeps_nothing(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Costs the keeping and no more."""
    small = {"cache": {"responses_max_size": "1KB", "max_size": "1KB"}}
    with world(tmp_path_factory.mktemp("full"), small) as here:
        file = lacking(here, wheel("six", requires=REQUIRES))
        for headers in ({}, ZSTD, {}):
            assert metadata(here, file, headers).decoded == file.metadata


# --- when the upstream fails


FAILURES: dict[str, Behaviour] = {
    "500": Answer(status=500, body=b""),
    "503": busy(),
    "403": Answer(status=403, body=b""),
    "hangs up": hang_up,
    "wrong": Answer(corrupt=5),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_a_cached_wheel_stands_in(here: World, failure: Behaviour) -> None:
    """Whatever becomes of the question for the metadata, the wheel that is here has it."""
    file = cached(here, lacking(here, wheel(fresh_name(), requires=REQUIRES), failure))
    for headers in (ZSTD, {}):
        got = metadata(here, file, headers)
        assert (got.status, got.decoded) == (200, file.metadata)
    assert wheels_fetched(here, file) == 1


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_a_failing_upstream_is_not_asked_for_the_wheel(here: World, failure: Behaviour) -> None:
    """It fails; that is no word about what it has."""
    file = lacking(here, wheel(fresh_name()), failure)
    assert metadata(here, file).status in (502, 503)
    assert wheels_fetched(here, file) == 0


def test_an_upstream_that_is_gone(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Stopped after the wheel was cached: its metadata can still be had, and an uncached wheel's cannot."""
    with world(tmp_path_factory.mktemp("gone")) as here:
        file = cached(here, lacking(here, wheel("six", requires=REQUIRES)))
        other = lacking(here, wheel("seven"))
        here.upstream.stop()
        assert metadata(here, file).body == file.metadata
        assert metadata(here, other).status == 503


def test_what_a_client_does_not_want_fetched(here: World) -> None:
    """only-if-cached: 504 while the wheel is not here, its metadata when it is; nobody is asked."""
    file = lacking(here, wheel(fresh_name(), requires=REQUIRES))
    wish = {"Cache-Control": "only-if-cached"}
    assert metadata(here, file, wish).status == 504
    assert (wheels_fetched(here, file), here.file_requests(file, METADATA)) == (0, [])
    cached(here, file)
    got = metadata(here, file, wish)
    assert (got.status, got.body, here.file_requests(file, METADATA)) == (200, file.metadata, [])


def test_offline(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing is fetched, and what is here is served."""
    with world(tmp_path_factory.mktemp("offline")) as here:
        file = cached(here, lacking(here, wheel("six", requires=REQUIRES)))
        other = lacking(here, wheel("seven"))
        here.proxy.restart(arguments=("--offline",))
        here.upstream.forget()
        assert metadata(here, file).body == file.metadata
        assert metadata(here, other).status == 503
        assert here.upstream.log == []


# --- what is not served


def directory(file: Distribution, version: str = "") -> str:
    """Where a wheel keeps its metadata."""
    return f"{file.project.replace('-', '_')}-{version or file.version}.dist-info/METADATA"


def broken(file: Distribution, flaw: str) -> Distribution:
    """A wheel with that flaw; its page lists the hash of the file as it is."""
    good = file.metadata or b""
    match flaw:
        case "no zip":
            return of(file, b"<!DOCTYPE html>" * 100)
        case "cut":
            return of(file, file.data[:-40])
        case "empty":
            return of(file, b"")
        case "none":
            return of(file, zipped([("six.py", b"")]))
        case "another's":
            return of(file, zipped([("seven-1.0.dist-info/METADATA", good)]))
        case "another version's":
            return of(file, zipped([(directory(file, "2.0"), good)]))
        case "deeper":
            return of(file, zipped([(f"vendored/{directory(file)}", good)]))
        case "two":
            return of(file, zipped([(directory(file), good), (directory(file, "1.0.0"), good)]))
        case "twice":
            return of(file, zipped([(directory(file), good), (directory(file), good)]))
        case "bomb":
            return of(file, zipped([(directory(file), bytes(17 * 2**20))]))
        case _:
            data = bytearray(file.data)
            at = data.index(good)
            data[at] ^= 0xFF  # the archive's own checksum tells
            return of(file, bytes(data))


FLAWS = ("no zip", "cut", "empty", "none", "another's", "another version's", "deeper", "two", "twice", "bomb", "rotten")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("flaw", FLAWS)
def test_a_wheel_that_does_not_tell(here: World, flaw: str) -> None:
    """503 that says so; the wheel itself is the client's to judge."""
    file = lacking(here, broken(wheel(fresh_name(), requires=REQUIRES), flaw))
    for headers in ({}, ZSTD):
        got = metadata(here, file, headers)
        assert (got.status, b"wheel" in got.body) == (503, True)
        assert got.headers["retry-after"] == "2"
    assert here.file(file).sha256 == file.sha256
    assert wheels_fetched(here, file) == 1


def test_another_hash_than_its_page_lists(here: World) -> None:
    """503, never the wrong bytes; when the upstream has the right ones, those."""
    file = lacking(here, replace(wheel(fresh_name()), metadata=b"Name: what the page promised\n"))
    for headers in ({}, ZSTD):
        got = metadata(here, file, headers)
        assert (got.status, b"hash" in got.body) == (503, True)
    here.script_file(file, suffix=METADATA)
    eventually(lambda: metadata(here, file).body == file.metadata, "the upstream is asked again")


def test_a_wheel_that_the_upstream_lacks_too(here: World) -> None:
    """503, as long as the page lists it; 404 when it does not."""
    file = lacking(here, wheel(fresh_name()))
    here.script_file(file, LACKING)
    assert metadata(here, file).status == 503
    dropped = lacking(here, wheel(fresh_name()))
    here.upstream.index.remove(dropped)
    assert metadata(here, dropped).status == 404


def test_a_wheel_with_a_wrong_body(here: World) -> None:
    """Nothing is taken from what fails its hash."""
    file = lacking(here, wheel(fresh_name(), requires=REQUIRES))
    here.script_file(file, Answer(corrupt=file.data.index(b"Name: ")))
    assert metadata(here, file).status in (502, 503)
    here.script_file(file)
    assert metadata(here, file).body == file.metadata


@pytest.mark.parametrize("form", ["json", "html"])
def test_a_big_wheel_is_not_fetched_for_its_metadata(here: World, form: str) -> None:
    """503 until somebody wants the wheel itself; where the page tells no size, the upstream is asked for it."""
    with pages(here, form):
        file = lacking(here, wheel(fresh_name(), padding=BIG + 1))
        assert metadata(here, file).status == 503
        assert [each.method for each in here.file_requests(file)] == ([] if form == "json" else ["HEAD"])
        cached(here, file)
        assert metadata(here, file).body == file.metadata


def test_a_small_wheel_without_a_listed_size(here: World) -> None:
    """Fetched, also from an upstream that knows no HEAD."""
    with pages(here, "html"):
        file = lacking(here, wheel(fresh_name()))
        here.script_file(file, Answer(status=405, body=b""), Answer())
        assert metadata(here, file).body == file.metadata
    assert [each.method for each in here.file_requests(file)] == ["HEAD", "GET"]


def test_metadata_that_no_page_advertises(here: World) -> None:
    """404, and no wheel is fetched to make some."""
    file = lacking(here, replace(wheel(fresh_name()), metadata=None))
    assert metadata(here, file).status == 404
    assert wheels_fetched(here, file) == 0


def test_an_sdist(here: World) -> None:
    """503: its PKG-INFO need not be what a build makes of it."""
    file = lacking(here, replace(sdist(fresh_name()), metadata=core_metadata("x", "1.0")))
    assert metadata(here, file).status == 503
    assert wheels_fetched(here, file) == 0
