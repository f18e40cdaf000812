"""What a server counted and wrote of one request that went wrong: at ``/metrics`` and in its log."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

from tests.harness.scrape import Scraped, parsed
from tests.harness.waiting import eventually
from tests.harness.world import World

REQUESTS = "pipcacheproxy_requests_total"
UPSTREAM_REQUESTS = "pipcacheproxy_upstream_requests_total"
UPSTREAM_FAILURES = "pipcacheproxy_upstream_failures_total"
KEPT = "pipcacheproxy_cache_files"


class Ledger:
    """Begins where it is made. Nobody else may ask that server for pages or files meanwhile."""

    def __init__(self, here: World) -> None:
        self._here = here
        self._before = scraped(here)
        # What was answered before is kept, and counted, a moment later.
        eventually(self._settled, "what was answered before is kept")
        here.proxy.forget()

    def _settled(self) -> bool:
        time.sleep(0.02)
        before, self._before = self._before, scraped(self._here)
        return self._before.moved(before, KEPT) == 0

    def answered(self, path: str, status: int, outcome: str, because: Collection[str], kind: str) -> dict[str, Any]:
        """The log line of the one request for that path, once it is written and counted. Raises AssertionError when it
        says anything else, or is counted as anything else."""
        self._here.proxy.wait_for_log(lambda lines: any(each.get("path") == path for each in lines))
        (line,) = (each for each in self._here.proxy.requests(path) if each["path"] == path)
        assert (line["status"], line["outcome"]) == (status, outcome), line
        assert line["because"] in because, line
        labels = {"kind": kind, "outcome": outcome, "reason": line["because"], "status": f"{status // 100}xx"}
        eventually(lambda: self.moved(REQUESTS, **labels) == 1, f"it is counted once as {labels}")
        assert self.moved(REQUESTS, kind=kind) == 1
        return line

    def asked(self, status: int | None, number: int) -> None:
        """Waits until so many requests to the upstream are counted that got this status (None: no answer)."""
        label = "none" if status is None else str(status)
        eventually(
            lambda: self.moved(UPSTREAM_REQUESTS, status=label) == number, f"{number} are counted that got {label}"
        )

    def moved(self, name: str, **labels: str) -> float:
        """How much a metric has grown."""
        return scraped(self._here).moved(self._before, name, **labels)


def scraped(here: World) -> Scraped:
    """What Prometheus reads."""
    answer = here.get("/metrics")
    return parsed(answer.body.decode(), answer.headers["content-type"])
