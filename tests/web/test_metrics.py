"""What is counted agrees with what happened, and is bounded whatever happens."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from proxy.core.messages import FileTarget, JsonTarget, ListTarget, Moved, NotHere, PageTarget, Target
from proxy.events import Event, UpstreamEvent
from proxy.web.exposition import Counted
from proxy.web.metrics import BOUNDS, DATA, HITS, MISSES, Metrics
from proxy.web.routes import kind_of
from tests.harness.scrape import OPEN_METRICS, Scraped, named, parsed
from tests.harness.server import ROOT

OUTCOMES = ("hit", "stale", "revalidated", "miss", "relay", "missing", "negative", "error", "refused", "moved", "local")


def event(outcome: str = "hit", kind: str = "page", **changes: Any) -> Event:
    """An answered request."""
    facts = {"because": "fresh by max-age", "status": 200, "sent": 10, "seconds": 0.003, **changes}
    return Event("GET", "/simple/secret/", outcome, kind=kind, **facts)


def shown(metrics: Metrics, accept: str = "") -> Scraped:
    """What Prometheus reads."""
    registry = CollectorRegistry()
    registry.register(Counted(metrics))
    encode, media_type = choose_encoder(accept)
    return parsed(encode(registry).decode(), media_type)


@pytest.mark.parametrize("accept", ["", OPEN_METRICS])
def test_an_answer_is_counted_by_all_that_it_was(accept: str) -> None:
    """Kind, outcome, reason and class of status; the same in both formats."""
    metrics = Metrics()
    for each in (event(), event(), event("miss", "file", because="not cached", status=206), event("error", status=503)):
        metrics(each)
    found = shown(metrics, accept)
    requests = "pipcacheproxy_requests_total"
    reason = "fresh by max-age"
    assert found.sum(requests) == 4
    assert found.sum(requests, kind="page", outcome="hit", reason=reason, status="2xx") == 2
    assert found.sum(requests, kind="file", outcome="miss", reason="not cached", status="2xx") == 1
    assert found.sum(requests, kind="page", outcome="error", reason=reason, status="5xx") == 1


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("kind", [*sorted(DATA), "operation", "admin", "other"])
def test_hits_and_misses(outcome: str, kind: str) -> None:
    """Of the data plane alone: from what is kept, or what an upstream said; no error is either."""
    metrics = Metrics()
    metrics(event(outcome, kind))
    expected = int(outcome in HITS and kind in DATA), int(outcome in MISSES and kind in DATA)
    assert (metrics.hits, metrics.misses) == expected
    found = shown(metrics)
    lookups = "pipcacheproxy_cache_lookups_total"
    assert (found.sum(lookups, result="hit"), found.sum(lookups, result="miss")) == expected


def test_every_outcome_is_a_hit_or_a_miss_or_neither() -> None:
    """A new one is to be thought about."""
    assert not HITS & MISSES
    assert set(OUTCOMES) - HITS - MISSES == {"error", "refused", "moved", "local"}


@pytest.mark.parametrize(
    ("seen", "saved"),
    [
        (event("hit"), 10),
        (event("stale"), 10),
        (event("revalidated"), 10),
        (event("miss"), 0),
        (event("miss", collapsed=True), 10),
        (event("relay", "file"), 0),
        (event("negative", status=404), 0),
        (event("error", status=503), 0),
        (event("local", "operation"), 0),
    ],
)
def test_bytes_that_no_upstream_sent_are_saved(seen: Event, saved: int) -> None:
    """Bodies out of the cache, and of fetches that others had begun."""
    metrics = Metrics()
    metrics(seen)
    found = shown(metrics)
    assert found.sum("pipcacheproxy_response_bytes_total", kind=seen.kind) == 10
    assert found.sum("pipcacheproxy_saved_bytes_total") == saved


def test_seconds_fall_into_their_buckets() -> None:
    """Each bound is the end of its own bucket (le), what is beyond all is in +Inf, and the sum is the sum."""
    metrics = Metrics()
    seconds = [*BOUNDS, BOUNDS[-1] + 1, 0.0]
    for each in seconds:
        metrics(event(seconds=each))
    found = shown(metrics)
    name = "pipcacheproxy_request_duration_seconds"
    for position, bound in enumerate(BOUNDS):
        assert found.sum(f"{name}_bucket", kind="page", outcome="hit", le=str(bound)) == position + 2, bound
    assert found.sum(f"{name}_bucket", le="+Inf") == found.sum(f"{name}_count") == len(seconds)
    assert found.sum(f"{name}_sum") == pytest.approx(sum(seconds))
    assert (BOUNDS[0], BOUNDS[-1]) == (0.0001, 300.0)


def test_collapsed_and_cut_answers_are_counted_beside() -> None:
    """They are requests like the others, too."""
    metrics = Metrics()
    metrics(event("miss", "file", collapsed=True))
    metrics(event("miss", "file", collapsed=True, aborted=True, because="the client left"))
    found = shown(metrics)
    assert found.sum("pipcacheproxy_requests_total") == found.sum("pipcacheproxy_collapsed_requests_total") == 2
    assert found.sum("pipcacheproxy_cut_responses_total", kind="file") == 1
    assert found.sum("pipcacheproxy_requests_total", reason="the client left") == 1


def test_an_upstream_is_counted_by_index() -> None:
    """Status, seconds, bytes; and why no answer came, or not all of it."""
    metrics = Metrics(["main", "quiet"])
    for each in (
        UpstreamEvent("main", 200, 0.2, 1000),
        UpstreamEvent("main", 200, 0.2, 10, "the body was cut"),
        UpstreamEvent("main", None, 3.0, because="no connection"),
        UpstreamEvent("main", None, 3.0),
    ):
        metrics.observe_upstream(each)
    found = shown(metrics)
    requests, failures = "pipcacheproxy_upstream_requests_total", "pipcacheproxy_upstream_failures_total"
    assert found.sum(requests, index="main", status="200") == 2
    assert found.sum(requests, index="main", status="none") == 2
    assert found.sum(failures) == 3
    assert found.sum(failures, index="main", reason="the body was cut") == 1
    assert found.sum(failures, index="main", reason="nobody waits for the answer any more") == 1
    assert found.sum("pipcacheproxy_upstream_received_bytes_total", index="main") == 1010
    assert found.sum("pipcacheproxy_upstream_request_duration_seconds_count", index="main") == 4
    # An index that was never asked stands at 0: a rate begins there.
    assert ("pipcacheproxy_upstream_received_bytes_total", frozenset({("index", "quiet")})) in found.samples


def test_no_number_of_reasons_or_statuses_makes_the_page_grow() -> None:
    """Reasons are constant text of ours; were one of them not, the page would stay as it is all the same."""
    metrics = Metrics()
    for number in range(2000):
        metrics(event(because=f"reason {number}", status=100 + number % 500))
        metrics.observe_upstream(UpstreamEvent("main", number, 0.1, because=f"reason {number}"))
    found = shown(metrics)
    assert len(found.samples) < 1500
    assert found.sum("pipcacheproxy_requests_total") == found.sum("pipcacheproxy_upstream_requests_total") == 2000
    assert found.sum("pipcacheproxy_upstream_failures_total") == 2000
    assert found.sum("pipcacheproxy_requests_total", reason="other") == 1500
    assert len([each for each in found.samples if each[0] == "pipcacheproxy_upstream_requests_total"]) < 100


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        (PageTarget("main", "six", "../../"), "page"),
        (ListTarget("main", "../"), "list"),
        (FileTarget("main", "example.com/six.whl", metadata=False), "file"),
        (FileTarget("main", "example.com/six.whl", metadata=True), "metadata"),
        (JsonTarget("main", "six"), "json"),
        (Moved("six/"), "other"),
        (NotHere("nothing is served there"), "other"),
    ],
)
def test_the_kind_follows_from_what_was_understood(target: Target, kind: str) -> None:
    """Not from how a path looks."""
    assert kind_of(target) == kind


def test_metrics_in_a_query_are_found() -> None:
    """The tests of the dashboard and of the alerts rely on it."""
    query = (
        'sum by (job, room) (rate(one_total{room="a{b}", x=~"sum|by"}[5m])) / on (job) group_left () '
        '(two{y!="z"} or vector(0)) > 0.5 * three and four offset 1h'
    )
    found = named(query)
    assert [each.metric for each in found] == ["one_total", "two", "three", "four"]
    assert [each.labels - {"job"} for each in found] == [{"room", "x"}, {"room", "y"}, {"room"}, {"room"}]


def test_prometheus_is_not_loaded_before_somebody_asks() -> None:
    """It costs 50 ms, and many servers are never scraped."""
    code = "import sys, proxy.app; print([each for each in sys.modules if each.startswith('prometheus')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
