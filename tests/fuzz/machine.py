"""Makes inputs up, guided by the branches they reach: libFuzzer by way of atheris, in a process for each parser.

The branches can be seen only in modules that are imported here first, so this one is imported by nobody but
``__main__``, which is a program of its own.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["proxy"], enable_loader_override=False):
    from proxy.core.urls import location_of
    from tests.fuzz.parsers import PARSERS

from tests.fuzz.parser import Parser


def _no_host_in_brackets(data: bytes) -> None:
    try:
        location = location_of("https://" + data.decode("latin-1"))
    except ValueError:
        return
    assert not location.startswith("[")


SHOWN = Parser("shown", _no_host_in_brackets, (b"[::1]", b"/six.whl"), 64)
"""A law that does not hold, of something that takes several steps to reach: that shows that a broken one is found."""
_WITHIN = 20
"""Seconds for one input, on a machine that does other things beside."""
_MEMORY = 1024
"""MiB of one process."""
_RUNS = re.compile(r"stat::number_of_executed_units:\s+([0-9]+)")


def made_up(names: Sequence[str], runs: int, *, at_once: int, keep: bool = False) -> tuple[int, list[str]]:
    """So many inputs for each of the parsers with these names (all, if none is given), several at once. How many
    were tried, and what each that broke its law said. ``keep``: the corpus grows by what reaches something new."""
    chosen = [SHOWN, *(parser for parser in PARSERS if not names or parser.name in names)]
    tried, broken = 0, []
    with tempfile.TemporaryDirectory(prefix="fuzz") as scratch:
        waiting = list(chosen)
        running: dict[int, Parser] = {}
        while waiting or running:
            while waiting and len(running) < at_once:
                parser = waiting.pop(0)
                tries = max(runs, 100_000) if parser is SHOWN else runs
                running[_begun(parser, tries, Path(scratch), keep=keep)] = parser
            ended, status = os.wait()
            parser = running.pop(ended)
            said = (Path(scratch) / f"{parser.name}.said").read_text("utf-8", "replace")
            tried += int(found[1]) if (found := _RUNS.search(said)) else 0
            if parser is SHOWN:
                assert status, f"a law that does not hold was not broken: {said}"
            elif status:
                inputs = [path.read_bytes()[:1000] for path in (Path(scratch) / parser.name).glob("broke-*")]
                broken.append(f"{parser.name}: {said[-3000:]}\nby {inputs}")
    return tried, broken


def _begun(parser: Parser, runs: int, scratch: Path, *, keep: bool) -> int:
    """The process that does it; its id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    said = os.open(scratch / f"{parser.name}.said", os.O_WRONLY | os.O_CREAT, 0o600)
    os.dup2(said, 1)
    os.dup2(said, 2)
    try:
        _search(parser, runs, scratch, keep=keep)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)  # libFuzzer ends the process itself


def _search(parser: Parser, runs: int, scratch: Path, *, keep: bool) -> None:
    words, found = scratch / f"{parser.name}.words", scratch / parser.name
    words.write_text("".join(map(_spelled, parser.words)))
    found.mkdir()
    arguments = [
        *(parser.name, f"-runs={runs}", f"-max_len={parser.most}", f"-timeout={_WITHIN}", f"-rss_limit_mb={_MEMORY}"),
        *(f"-artifact_prefix={found}/broke-", "-print_final_stats=1"),
        *([f"-dict={words}"] if parser.words else []),
        # What reaches something new is written into the first directory.
        *([parser.corpus] if keep else [found, *([parser.corpus] if parser.corpus.exists() else [])]),
    ]
    atheris.Setup(list(map(str, arguments)), parser.hold)
    atheris.Fuzz()


def _spelled(word: bytes) -> str:
    """A line of libFuzzer's dictionary."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n'
