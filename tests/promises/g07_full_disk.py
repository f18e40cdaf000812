"""G7: a disk too small for what is asked for, which then fills up in the middle of downloads, and stays full."""

from __future__ import annotations

import errno
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.harness.behaviours import Answer
from tests.harness.exchange import Gate
from tests.harness.packages import Distribution, blob
from tests.harness.smalldisk import SmallDisk
from tests.harness.smallplace import SmallPlace, small_place
from tests.harness.upstream import Upstream
from tests.harness.waiting import PATIENCE, eventually
from tests.promises.promise import Measured, Promise, Size

PROMISE = Promise(
    "G7",
    "disk full",
    "8 MiB filesystem, 100 x 3 MB: 100 right bodies, 0 partials, purge works at 0 bytes free, caching resumes <= 5 s",
)
DISK, FILE = 8 * 2**20, 3_000_000
AT_ONCE = 4
RESUMED_WITHIN = 5.0
# Of a hundred files: these are too much for the disk, these are on their way as it fills up, the rest finds it full.
ROOMY, CAUGHT, TOGETHER = 40, 20, 100
ROUNDS = {"ci": 1, "long": 10}


def measure(size: Size, directory: Path) -> Measured:
    """Rounds of a hundred files, each with another disk; see `Promise`."""
    lacking = SmallDisk.missing()
    assert lacking is None, lacking
    right, partial, asked, left = 0, 0, 0, 0
    resumed = list[float]()
    for number in range(ROUNDS[size]):
        with Upstream() as upstream, small_place(directory / str(number), upstream, DISK) as place:
            files = [blob(f"blob{each}", size=FILE, seed=each) for each in range(TOGETHER)]
            place.publish(*files)
            place.proxy.start()
            right += _while_there_is_room(place, files[:ROOMY])
            partial += _partial(place, files)
            right += _as_it_fills_up(place, files[ROOMY : ROOMY + CAUGHT])
            right += _on_a_full_disk(place, files[ROOMY + CAUGHT :])
            partial += _partial(place, files)
            asked += TOGETHER
            left += _purged(place)
            resumed.append(_resumed(place, files[0]))
            assert place.proxy.terminate() == 0
    figure = f"{right} of {asked} right bodies, {partial} partials, {left} bodies after purges at 0 bytes free"
    return Measured(
        f"{figure}, caching resumed within {max(resumed):.1f} s",
        tuple(
            told
            for told, kept in (
                (f"{asked - right} bodies were wrong", right == asked),
                (f"{partial} partial bodies were kept", not partial),
                (f"{left} bodies outlived a purge", not left),
                (f"caching resumed after {max(resumed):.1f} s", max(resumed) <= RESUMED_WITHIN),
            )
            if not kept
        ),
    )


def _while_there_is_room(place: SmallPlace, files: list[Distribution]) -> int:
    """Some at a time, each pushing out the one before; how many were right."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return sum(pool.map(lambda file: _right(place, file), files))


def _as_it_fills_up(place: SmallPlace, files: list[Distribution]) -> int:
    """Each is half written when the last byte of the disk goes."""
    right = 0
    with ThreadPoolExecutor(1) as pool:
        for file in files:
            place.proxy.wait_for_log(lambda _: not place.proxy.spooled())
            gate = Gate()
            place.script_file(file, Answer(stall_after=FILE // 2, gate=gate))
            client = pool.submit(_right, place, file)
            assert gate.reached.wait(PATIENCE)
            _shown_full(place)
            gate.open()
            right += client.result()
            place.disk.make_room()
    return right


def _on_a_full_disk(place: SmallPlace, files: list[Distribution]) -> int:
    """Others take every byte, again and again, also what the proxy frees for itself."""
    place.fill()
    _shown_full(place)
    right = 0
    for file in files:
        place.disk.fill()
        right += _right(place, file)
    return right


def _shown_full(place: SmallPlace) -> None:
    """Nobody can write one byte more: otherwise this says nothing. What the proxy frees meanwhile is taken, too."""
    probe = place.disk.seen / "probe"
    for _ in range(100):
        place.disk.fill()
        try:
            with open(probe, "wb", buffering=0) as file:
                file.write(b"x")
        except OSError as error:
            if error.errno == errno.ENOSPC:
                return
            raise
        finally:
            probe.unlink(missing_ok=True)
    raise AssertionError("the disk is not full")


def _right(place: SmallPlace, file: Distribution) -> bool:
    got = place.file(file)
    return (got.status, got.complete, got.sha256) == (200, True, file.sha256)


def _partial(place: SmallPlace, files: list[Distribution]) -> int:
    """Bodies in their place that are not whole, once nothing is under way any more."""
    eventually(lambda: not place.proxy.spooled(), "no spool is left")
    whole = {file.filename: file.size for file in files}
    return sum(path.stat().st_size != whole[path.name] for path in place.proxy.stored())


def _purged(place: SmallPlace) -> int:
    """Bodies that are there after a purge with no byte free, of some that were kept before."""
    place.disk.make_room()
    place.keep(*(place.publish(blob(f"small{each}", size=100_000, seed=each)) for each in range(5)))
    assert len(place.proxy.stored()) >= 5
    _shown_full(place)
    assert place.done("purge", {})["count"] > 0
    return len(place.proxy.stored())


def _resumed(place: SmallPlace, file: Distribution) -> float:
    """Seconds from the end of the need to the first file that is served from the cache again."""
    place.fill()
    place.disk.make_room()
    since = time.monotonic()
    eventually(lambda: place.cached(file), "caching comes back")
    took = time.monotonic() - since
    assert place.readiness() == {"status": "ready"}
    return took
