"""The other index of the long day, and the other mount: at an origin that is out of reach at times, all of it.

It has a name that is lost, ports that swallow what connects to them, and a certificate that nobody trusts. Each
connection is good for one answer, so that the next one meets what there is then.
"""

from __future__ import annotations

import ssl
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from tests.harness.blackhole import blackhole, knocking
from tests.harness.certificates import Pair, pair
from tests.harness.exchange import Exchange
from tests.harness.naming import Naming
from tests.harness.upstream import Upstream
from tests.promises.soakworld import Day

NAME = "elsewhere.example.org"
TROUBLES = {"nameless": 11.0, "blackholed": 3.0, "untrusted": 3.0}
"""What may be wrong with it, and for how many seconds at least: a name that was resolved is remembered for ten."""
PROJECTS = 5
"""It has these of the first index alone, in their first releases, for ever."""


def naming(directory: Path) -> Naming:
    """Its name. A server that asks for it is started with its environment, and that of `authority`."""
    return Naming(directory / "names", NAME)


def authority(directory: Path) -> dict[str, str]:
    """Whom such a server trusts: for an index and a mount alike."""
    return {"SSL_CERT_FILE": str(directory / "good/ca.pem")}


class Elsewhere:
    """A context manager: well, until it is told to ``become`` something else."""

    def __init__(self, directory: Path) -> None:
        self._naming = naming(directory)
        self._good, self._bad = (_context(pair(directory / each, NAME)) for each in ("good", "bad"))
        self._upstream = Upstream(index=Day.begun(PROJECTS), name=NAME)
        self._upstream.default = _once
        self._upstream.secure(self._good)
        self._holes = ExitStack()
        self._own = frozenset[str]()
        self._knocked = set[str]()
        self._done = Counter[str]()

    def __enter__(self) -> Elsewhere:
        self._upstream.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._holes.close()
        self._upstream.stop()

    @property
    def place(self) -> dict[str, str]:
        """Where it is, as the day's other upstream says it."""
        up = self._upstream
        return {"elsewhere": up.url, "other_tree": f"{up.origin}/tree/", "other_files": up.files_url}

    def become(self, what: str) -> None:
        """One of TROUBLES, or "well"."""
        self._end()
        match what:
            case "nameless":
                self._naming.lose()
            case "blackholed":
                self._upstream.stop()
                for port in self._upstream.ports:
                    self._holes.enter_context(blackhole(port))
                # What fills it waits as well.
                self._own = self._waiting()
            case "untrusted":
                self._upstream.secure(self._bad)

    def struck(self) -> Counter[str]:
        """How often each of its troubles met somebody so far: names asked for, connections not answered, certificates
        refused."""
        if self._own:
            self._knocked |= self._waiting() - self._own
        now = {"nameless": self._naming.asked_in_vain(), "blackholed": len(self._knocked)}
        return self._done + Counter(now) + Counter(untrusted=self._upstream.distrusted)

    def _end(self) -> None:
        self._done["nameless"] += self._naming.restore()
        if self._own:
            self._done["blackholed"] += len(self._knocked | (self._waiting() - self._own))
            self._own, self._knocked = frozenset(), set()
            self._holes.close()
            self._upstream.start()
        self._upstream.secure(self._good)

    def _waiting(self) -> frozenset[str]:
        return frozenset[str]().union(*(knocking(port) for port in self._upstream.ports))


def _once(exchange: Exchange) -> None:
    exchange.answer(exchange.polite.with_header("Connection", "close"))
    exchange.ending = "close"


def _context(own: Pair) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(own.certificate, own.key)
    return context
