"""/metrics of a real server under real traffic: every number is what clients and the upstream saw."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.harness.behaviours import Answer, busy, cut
from tests.harness.exchange import Gate
from tests.harness.packages import Distribution, blob, sdist, wheel
from tests.harness.scrape import OPEN_METRICS, Named, Scraped, named, parsed
from tests.harness.server import ROOT, Settings
from tests.harness.upstream import Upstream
from tests.harness.waiting import eventually
from tests.harness.world import AS_JSON, World, fresh_name, world

REQUESTS = "pipcacheproxy_requests_total"
ASKED = "pipcacheproxy_upstream_requests_total"
SENT = "pipcacheproxy_response_bytes_total"
SAVED = "pipcacheproxy_saved_bytes_total"
RECEIVED = "pipcacheproxy_upstream_received_bytes_total"
SECRET = "a-secret-of-this-index"
NEVER = "1h"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One server that answers all of these tests."""
    settings: Settings = {"freshness": {"min_reload_interval": "0s"}, "limits": {"range_fill_max": 100_000}}
    secret = {"PIPCACHEPROXY_INDEX_PRIVATE_PASSWORD": SECRET}
    private = Upstream()

    def indexes(_: Upstream) -> Mapping[str, Any]:
        return {"private": {"url": private.url, "username": SECRET}}

    with private, world(tmp_path_factory.mktemp("metrics"), settings, indexes=indexes, environment=secret) as running:
        yield running


def scraped(here: World, accept: str = "") -> Scraped:
    """What Prometheus reads."""
    answer = here.get("/metrics", {"Accept": accept} if accept else {})
    assert answer.status == 200
    return parsed(answer.body.decode(), answer.headers["content-type"])


def published(here: World, make: Callable[..., Distribution] = wheel, **how: Any) -> Distribution:
    """A file of a new project."""
    return here.publish(make(fresh_name(), **how))


def stale(here: World) -> str:
    """A project whose page is kept and not fresh."""
    file = published(here)
    here.script(file.project, Answer(headers={"Cache-Control": "max-age=0"}))
    assert here.page(file.project).status == 200
    return file.project


def _page(here: World) -> None:
    assert here.page(published(here).project).status == 200


def _page_again(here: World) -> None:
    file = published(here)
    assert [here.page(file.project).status for _ in range(2)] == [200, 200]


def _stale_page(here: World) -> None:
    name = stale(here)
    here.script(name, busy(500))
    assert here.page(name).status == 200


def _revalidated_page(here: World) -> None:
    name = stale(here)
    assert here.page(name).status == 200


def _no_such_project(here: World) -> None:
    assert here.page(fresh_name()).status == 404


def _no_such_project_again(here: World) -> None:
    name = fresh_name()
    assert [here.page(name).status for _ in range(2)] == [404, 404]


def _failing_page(here: World) -> None:
    name = fresh_name()
    here.script(name, busy(500))
    assert here.page(name).status == 503


def _file(here: World) -> None:
    assert here.file(published(here)).status == 200


def _file_again(here: World) -> None:
    file = published(here)
    eventually(lambda: here.file(file).hit, "it is kept")


def _range_of_a_big_file(here: World) -> None:
    file = published(here, blob, size=200_000)
    assert here.file(file, {"Range": "bytes=0-9"}).status == 206


def _metadata(here: World) -> None:
    assert here.file(published(here), suffix=".metadata").status == 200


def _document(here: World) -> None:
    assert here.get(f"/pypi/{published(here).project}/json").status == 200


def _list(here: World) -> None:
    assert here.get("/simple/", AS_JSON).status == 200


def _no_route(here: World) -> None:
    assert here.get("/nothing/here").status == 404


def _spelling(here: World) -> None:
    assert here.get("/simple/Six/").status == 301


def _health(here: World) -> None:
    assert here.get("/healthz").status == 200


@pytest.mark.parametrize(
    ("ask", "kind", "outcome", "status", "upstream"),
    [
        (_page, "page", "miss", "2xx", {"200": 1}),
        (_page_again, "page", "hit", "2xx", {"200": 1}),
        (_stale_page, "page", "stale", "2xx", {"200": 1, "500": 1}),
        (_revalidated_page, "page", "revalidated", "2xx", {"200": 1, "304": 1}),
        (_no_such_project, "page", "missing", "4xx", {"404": 1}),
        (_no_such_project_again, "page", "negative", "4xx", {"404": 1}),
        (_failing_page, "page", "error", "5xx", {"500": 1}),
        (_file, "file", "miss", "2xx", {"200": 2}),
        (_file_again, "file", "hit", "2xx", {"200": 2}),
        (_range_of_a_big_file, "file", "relay", "2xx", {"200": 1, "206": 1}),
        (_metadata, "metadata", "miss", "2xx", {"200": 2}),
        (_document, "json", "miss", "2xx", {"200": 1}),
        (_list, "list", "miss", "2xx", {"200": 1}),
        (_no_route, "other", "refused", "4xx", {}),
        (_spelling, "other", "moved", "3xx", {}),
        (_health, "operation", "local", "2xx", {}),
    ],
)
def test_each_answer_moves_its_number(
    here: World, ask: Callable[[World], None], kind: str, outcome: str, status: str, upstream: Mapping[str, int]
) -> None:
    """One more of its kind, outcome and class; and as many of the upstream's as the upstream saw."""
    before = scraped(here)
    here.upstream.forget()
    ask(here)
    labels = {"kind": kind, "outcome": outcome, "status": status}
    eventually(lambda: scraped(here).moved(before, REQUESTS, **labels) >= 1, "it is counted")
    now = scraped(here)
    count = "pipcacheproxy_request_duration_seconds_count"
    assert now.moved(before, count, kind=kind, outcome=outcome) == now.moved(before, REQUESTS, **labels)

    def asked() -> Mapping[str, float]:
        now = scraped(here)
        return {each: now.moved(before, ASKED, index="test", status=each) for each in upstream}

    eventually(lambda: asked() == upstream, "the upstream's are counted")
    assert scraped(here).moved(before, ASKED) == len(here.upstream.log) == sum(upstream.values())


def test_the_sums_are_what_clients_and_the_upstream_saw(tmp_path: Path) -> None:
    """Eight clients at once, all kinds of requests: not one too many, not one byte too few."""
    with world(tmp_path) as here:
        files = [published(here, padding=20_000 * number) for number in range(3)]
        files += [published(here, sdist) for _ in range(3)]
        paths = [f"/simple/{each.project}/" for each in files] + [here.path_of(each) for each in files]
        paths += [f"/pypi/{files[0].project}/json", "/simple/", "/simple/no-such-project/", "/nowhere"]
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(here.get, paths * 8))
        seen = here.upstream.log

        def counted() -> tuple[float, float]:
            now = scraped(here)
            return now.sum(REQUESTS) - now.sum(REQUESTS, kind="operation"), now.sum(RECEIVED, index="test")

        def happened() -> tuple[float, float]:
            # What a 404 says is not read.
            return len(answers), sum(each.sent for each in seen if each.status == 200)

        eventually(lambda: counted() == happened(), "all are counted")
        now = scraped(here)
        statuses = Counter(str(each.status) for each in seen)
        assert {each: now.sum(ASKED, status=each) for each in statuses} == statuses
        assert now.sum(ASKED) == len(seen)
        classes = Counter(f"{each.status // 100}xx" for each in answers)
        operations = Counter({each: now.sum(REQUESTS, status=each, kind="operation") for each in classes})
        assert {each: now.sum(REQUESTS, status=each) - operations[each] for each in classes} == classes
        sent = sum(len(each.body) for each in answers)
        assert now.sum(SENT) - now.sum(SENT, kind="operation") == sent
        hits = sum(each.hit for each in answers)
        assert now.sum("pipcacheproxy_cache_lookups_total", result="hit") == hits
        looked = now.sum("pipcacheproxy_cache_lookups_total")
        assert looked == len(answers) - classes["4xx"] + sum(
            now.sum(REQUESTS, outcome=each) for each in ("missing", "negative")
        )
        # Every file was fetched once, and all others had it for nothing.
        assert now.sum(SAVED, kind="file") == sum(each.size for each in files) * 7
        kept = "pipcacheproxy_cache_files"
        assert now.sum(kept, kind="wheel") == now.sum(kept, kind="sdist") == 3
        assert now.sum("pipcacheproxy_cache_bytes", room="wheels") == sum(each.size for each in files)


def test_an_eviction_is_counted_and_the_rest_is_within_the_limit(tmp_path: Path) -> None:
    """What came is what is there and what went."""
    with world(tmp_path, {"cache": {"max_size": "200KB"}}) as here:
        files = [published(here, padding=30_000) for _ in range(10)]
        assert all(here.file(each).status == 200 for each in files)
        total = sum(each.size for each in files)

        def kept_and_gone() -> tuple[float, float]:
            now = scraped(here)
            kept = now.sum("pipcacheproxy_cache_files", room="wheels")
            size = now.sum("pipcacheproxy_cache_bytes", room="wheels")
            gone = now.sum("pipcacheproxy_evictions_total", room="wheels")
            return kept + gone, size + now.sum("pipcacheproxy_evicted_bytes_total", room="wheels")

        eventually(lambda: kept_and_gone() == (10, total), "all came")
        eventually(
            lambda: scraped(here).sum("pipcacheproxy_cache_bytes", room="wheels") <= 200_000, "it is brought down"
        )
        now = scraped(here)
        assert now.sum("pipcacheproxy_cache_limit_bytes", room="wheels") == 200_000
        assert now.sum("pipcacheproxy_evictions_total", room="wheels") > 0
        assert now.sum("pipcacheproxy_evictions_total", room="responses") == 0


def test_what_an_operator_removes_is_counted(here: World) -> None:
    """And is no longer kept; a dry run changes nothing. Such requests are a kind of their own."""
    file = published(here, padding=10_000)
    eventually(lambda: here.file(file).hit, "it is kept")
    before = scraped(here)
    token = (here.proxy.cache / "admin.token").read_text().strip()
    for dry_run in (True, False):
        body = json.dumps({"pattern": "*", "project": file.project, "kind": "wheel", "dry_run": dry_run})
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        with closing(http.client.HTTPConnection(here.proxy.host, here.proxy.port, timeout=30)) as connection:
            connection.request("POST", "/admin/cache/remove", body, headers)
            answer = connection.getresponse()
            assert (answer.status, json.loads(answer.read())["count"]) == (200, 1)
        now = scraped(here)
        gone = 0 if dry_run else file.size
        assert now.moved(before, "pipcacheproxy_removed_files_total") == int(not dry_run)
        assert now.moved(before, "pipcacheproxy_removed_bytes_total") == gone
        assert now.moved(before, "pipcacheproxy_cache_bytes", kind="wheel") == -gone
    assert here.get("/admin/cache/info").status == 401
    eventually(lambda: scraped(here).moved(before, REQUESTS, kind="admin") == 3, "they are counted")
    assert scraped(here).moved(before, REQUESTS, kind="admin", outcome="refused", status="4xx") == 1
    assert token not in here.get("/metrics").body.decode()


def test_a_resting_upstream_shows_until_it_is_back(tmp_path: Path) -> None:
    """By index; what was not asked at all is no request to an upstream."""
    with world(tmp_path, {"limits": {"breaker_failures": 2, "probe_interval": NEVER}}) as here:
        resting = "pipcacheproxy_upstream_resting_origins"
        assert scraped(here).sum(resting, index="test") == 0
        here.upstream.stop()
        for _ in range(4):
            assert here.page(fresh_name()).status == 503
        now = scraped(here)
        assert now.sum(resting, index="test") == 1
        failures = now.sum("pipcacheproxy_upstream_failures_total", index="test", reason="no connection")
        assert 2 <= failures == now.sum(ASKED, index="test", status="none")
        assert now.sum(REQUESTS, outcome="error", reason="the upstream rests after failures") >= 2


def test_a_cache_that_does_not_work_shows_while_it_does_not(tmp_path: Path) -> None:
    """The reason is a label; requests are answered meanwhile."""
    with world(tmp_path) as here:
        degraded = "pipcacheproxy_store_degraded"
        assert scraped(here).samples[degraded, frozenset({("reason", "none")})] == 0
        held = sqlite3.connect(here.proxy.cache / "responses/cache.db", isolation_level=None)
        held.execute("BEGIN IMMEDIATE")
        assert here.page(published(here).project).status == 200
        eventually(lambda: scraped(here).sum(degraded, reason="the database is locked") == 1, "it shows")
        held.execute("ROLLBACK")
        held.close()
        eventually(
            lambda: here.page(published(here).project).status == 200 and scraped(here).sum(degraded) == 0, "it is over"
        )


def test_who_waits_for_a_file_is_counted_while_it_comes(here: World) -> None:
    """One fetch, three who follow it; none once it is over."""
    file, gate = published(here, padding=200_000), Gate()
    assert here.page(file.project).status == 200
    here.script_file(file, Answer(stall_after=100_000, gate=gate))
    before = scraped(here)

    def now(name: str) -> float:
        return scraped(here).sum(f"pipcacheproxy_{name}", what="fill")

    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(here.file, file) for _ in range(3)]
        eventually(lambda: now("waiters") == now("waiters_most") == 3, "all follow")
        assert now("fetches") == 1
        gate.open()
        assert all(job.result().body == file.data for job in jobs)
    eventually(lambda: now("waiters") == now("fetches") == 0, "they are gone")
    assert scraped(here).moved(before, "pipcacheproxy_collapsed_requests_total", kind="file") == 2
    assert scraped(here).moved(before, SAVED, kind="file") == 2 * file.size


def test_a_body_that_is_cut_is_a_failure_of_the_upstream(here: World) -> None:
    """It had a status, and did not come to its end, nor did the rest when that was asked for: what came is counted."""
    file = published(here, padding=200_000)
    assert here.page(file.project).status == 200
    gate = Gate()
    here.script_file(file, Answer(stop_after=150_000, stall_after=140_000, gate=gate), busy(500))
    before = scraped(here)
    # It is cut when a part is out, and not before.
    assert not here.get(here.path_of(file), progress=lambda _: gate.open()).complete
    failures = "pipcacheproxy_upstream_failures_total"
    eventually(lambda: scraped(here).moved(before, failures, reason="the body was cut") >= 1, "it is counted")
    eventually(lambda: scraped(here).moved(before, "pipcacheproxy_cut_responses_total", kind="file") == 1, "ours, too")
    assert scraped(here).moved(before, RECEIVED) >= 140_000


def test_connections_are_counted_and_those_refused(tmp_path: Path) -> None:
    """The one that asks included; by the limit that was met."""
    with world(tmp_path, {"limits": {"client_connections_per_address": 20}}) as here, ExitStack() as held:
        refused = "pipcacheproxy_connections_refused_total"
        for _ in range(5):
            held.enter_context(here.connect())
        eventually(lambda: scraped(here).sum("pipcacheproxy_connections") == 6, "they are open")
        crowd = [held.enter_context(here.connect()) for _ in range(20)]
        assert here_ends(crowd[-1])
        held.close()
        eventually(lambda: _answers(here), "there is room again")
        now = scraped(here)
        assert now.sum(refused, limit="client_connections_per_address") >= 1
        assert now.sum(refused, limit="client_connections") == 0
        assert now.sum("pipcacheproxy_connections_limit") == 4096


def here_ends(connection: socket.socket) -> bool:
    """Whether the server closes it without a word."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def _answers(here: World) -> bool:
    return here.get("/healthz").status == 200


@pytest.mark.slow
def test_a_thousand_projects_and_paths_add_no_series(here: World) -> None:
    """No label holds a project, a path, a file, a query, an address or a host, nor anything secret."""
    marks = ["unbounded", SECRET, "127.0.0.1", "localhost", f":{here.proxy.port}"]

    def ask(connection: http.client.HTTPConnection, number: int) -> None:
        paths = (
            f"/simple/unbounded-{number}/",
            f"/files/test/unbounded.example.com/{number}/unbounded-{number}.whl",
            f"/unbounded/{number}?unbounded={number}",
            f"/index/unbounded{number}/simple/",
        )
        for path in paths:
            connection.request("GET", path, headers={"Authorization": f"Bearer {SECRET}", "X-Unbounded": str(number)})
            connection.getresponse().read()

    with closing(http.client.HTTPConnection(here.proxy.host, here.proxy.port, timeout=30)) as connection:
        start = scraped(here)
        ask(connection, 0)
        eventually(lambda: scraped(here).moved(start, REQUESTS, status="4xx") == 4, "the first are counted")
        before = scraped(here)
        for number in range(1, 251):
            ask(connection, number)
    eventually(lambda: scraped(here).moved(before, REQUESTS) >= 1000, "all are counted")
    after = scraped(here)
    assert after.samples.keys() - before.samples.keys() == set()
    text = here.get("/metrics").body.decode()
    assert not [mark for mark in marks if mark in text]


def test_both_formats_and_neither_is_kept(here: World) -> None:
    """The text format, OpenMetrics by Accept, HEAD without a body; no other method, no other host."""
    text, openly = here.get("/metrics"), here.get("/metrics", {"Accept": OPEN_METRICS})
    assert text.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert openly.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert openly.body.endswith(b"# EOF\n")
    assert scraped(here).names == scraped(here, OPEN_METRICS).names
    for answer in (text, openly, here.get("/metrics", method="HEAD")):
        assert (answer.headers["cache-control"], answer.headers["vary"]) == ("no-store", "Accept")
    head = here.get("/metrics", method="HEAD")
    assert (head.status, head.body, int(head.headers["content-length"]) > 1000) == (200, b"", True)
    assert here.get("/metrics", method="POST").status == 405
    assert here.get("/metrics/").status == 404


def test_hosts_that_are_not_allowed_get_no_metrics(tmp_path: Path) -> None:
    """No token guards them, so a page in a browser must not get at them by a name of its own."""
    with world(tmp_path, {"server": {"allowed_hosts": ["127.0.0.1"]}}) as here:
        assert here.get("/metrics").status == 200
        assert here.get("/metrics", {"Host": "evil.example.com"}).status == 421


def test_promtool_finds_the_names_good(here: World) -> None:
    """Prometheus' own conventions: units, _total, help texts."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    _failing_page(here)
    text = here.get("/metrics").body
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def queries() -> list[tuple[str, str]]:
    """Every expression of the dashboard and of the alerts, with where it stands."""
    board = json.loads((ROOT / "deploy/grafana.json").read_text())
    alerts = yaml.safe_load((ROOT / "deploy/alerts.yaml").read_text())
    found = [(panel["title"], target["expr"]) for panel in board["panels"] for target in panel.get("targets", ())]
    found += [(rule["alert"], rule["expr"]) for group in alerts["groups"] for rule in group["rules"]]
    labels = [each["definition"] for each in board["templating"]["list"] if each["type"] == "query"]
    return found + [("variables", each.removeprefix("label_values(").rpartition(",")[0]) for each in labels]


# What Prometheus itself adds: the series of each target, and the labels of each series.
_PROMETHEUS = {"up": {"job", "instance"}}
_TARGET = {"job", "instance"}


def test_dashboard_and_alerts_use_only_what_there_is(here: World) -> None:
    """Every metric they name is exposed by a server that had all kinds of traffic, with every label they ask for."""
    _failing_page(here)
    file = published(here)
    here.page(file.project)
    here.script_file(file, cut(10))
    here.file(file)
    eventually(lambda: scraped(here).sum("pipcacheproxy_upstream_failures_total") > 0, "a failure is counted")
    now = scraped(here)
    used: dict[Named, str] = {each: where for where, query in queries() for each in named(query)}
    assert len(used) > 20
    for each, where in used.items():
        there = _PROMETHEUS.get(each.metric) or now.labels(each.metric) | _TARGET
        assert each.metric in now.names | _PROMETHEUS.keys(), f"{where}: {each.metric}"
        assert each.labels <= there | _TARGET, f"{where}: {each.metric} has no label {each.labels - there}"
    # And nothing worth a panel is forgotten: what is exposed and not shown is named here.
    unused = {name for name in now.names if name.startswith("pipcacheproxy_")} - {each.metric for each in used}
    assert {name for name in unused if not name.endswith(("_seconds_sum", "_seconds_count"))} == UNUSED


UNUSED = {
    "pipcacheproxy_collapsed_requests_total",  # saved_bytes has them
    "pipcacheproxy_cut_responses_total",  # so have the reasons
    "pipcacheproxy_evictions_total",  # their bytes are shown
    "pipcacheproxy_removed_files_total",  # so here
    "pipcacheproxy_memory_table_entries",  # and here
    "pipcacheproxy_hot_answers",  # they come and go with what is asked
    "pipcacheproxy_hot_bytes",
    "pipcacheproxy_fast_lane_answers_total",  # among the requests
    "pipcacheproxy_tasks",  # the connections are, of which each is one
    "pipcacheproxy_start_time_seconds",  # process_start_time_seconds where there is no /proc
    "pipcacheproxy_verified_bodies_total",  # work that is done beside
    "pipcacheproxy_verified_bytes_total",
    "pipcacheproxy_verified_time_seconds",
}
