"""What is counted and how the server is, in the words of Prometheus: the text format and OpenMetrics.

Every name begins with ``pipcacheproxy_``, but for those of the process, which have names of their own everywhere.
No label holds a project, a path, an address or a host; names of indexes are configured.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from proxy import __version__
from proxy.answer import Answer
from proxy.core.messages import CacheStatus
from proxy.store import RoomStats
from proxy.web.families import PREFIX, Labels, counter, gauge, gauges, histogram
from proxy.web.metrics import DATA, Metrics
from proxy.web.vitals import Vitals


class Exposition:
    """The page at ``/metrics``, of one server."""

    def __init__(self, metrics: Metrics, vitals: Vitals) -> None:
        self._registry = CollectorRegistry()
        for collector in (Counted(metrics), Measured(vitals)):
            self._registry.register(collector)
        ProcessCollector(registry=self._registry)
        self._turn = asyncio.Lock()

    async def answer(self, headers: Mapping[str, str]) -> Answer:
        """All of it, in the format that ``Accept`` asks for. ``headers`` is case-insensitive."""
        encode, media_type = choose_encoder(headers.get("Accept", ""))
        # What is counted is read here, where it is counted; to write it takes tens of milliseconds at worst, which
        # nobody else waits for, in one thread, however many ask.
        async with self._turn:
            body = await asyncio.to_thread(encode, _Snapshot(list(self._registry.collect())))
        fields = (("Content-Type", media_type), ("Cache-Control", "no-store"), ("Vary", "Accept"))
        return Answer(200, fields, body, CacheStatus("local", "the metrics of this server"), stop=len(body))


class _Snapshot(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        """What was read before."""
        return self._families


class Counted(Collector):
    """What happened since the start."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """All families, with what they are now."""
        yield from self._requests()
        yield from self._bytes()
        yield from self._upstream()

    def _requests(self) -> Iterator[Metric]:
        metrics = self._metrics
        yield counter(
            "requests",
            "Requests answered. outcome says how the answer came about (hit, stale, revalidated, miss, relay, missing,"
            " negative, error, refused, moved, local), reason because of what, status is the class sent (2xx).",
            ("kind", "outcome", "reason", "status"),
            metrics.requests(),
        )
        yield counter(
            "cache_lookups",
            "Requests for pages, lists, files, metadata, JSON documents and mounts that were answered: result=hit from"
            " what is kept (hit, stale, negative), result=miss with what an upstream said for them (miss, revalidated,"
            " relay, missing). Errors are neither; hit / (hit + miss) is the hit ratio.",
            ("result",),
            [(("hit",), metrics.hits), (("miss",), metrics.misses)],
        )
        yield histogram(
            "request_duration_seconds",
            "From the parsed request to the last byte that left, at the speed of the client. outcome=hit shows the"
            " proxy alone, outcome=miss the upstream, too.",
            ("kind", "outcome"),
            {key: tally.durations for key, tally in metrics.tallies.items()},
        )
        yield self._tallied("collapsed_requests", "Requests that joined a fetch which was under way.", "collapsed")
        yield self._tallied("cut_responses", "Responses whose connection ended before their body did.", "cut")

    def _bytes(self) -> Iterator[Metric]:
        yield self._tallied("response_bytes", "Bytes of bodies sent to clients.", "sent")
        yield self._tallied(
            "saved_bytes",
            "Those of response_bytes that no upstream sent for their request: out of the cache (hit, stale,"
            " revalidated), or of a fetch that another request had begun.",
            "saved",
        )

    def _tallied(self, name: str, text: str, what: str) -> Metric:
        sums = dict.fromkeys(sorted(DATA), 0)
        for (kind, _), tally in self._metrics.tallies.items():
            sums[kind] = sums.get(kind, 0) + int(getattr(tally, what))
        return counter(name, text, ("kind",), (((kind,), value) for kind, value in sums.items()))

    def _upstream(self) -> Iterator[Metric]:
        upstreams = self._metrics.upstreams
        yield counter(
            "upstream_requests",
            "Requests to upstreams; each redirect followed and each further try is one. status is what they answered,"
            ' "none" when no answer came.',
            ("index", "status"),
            (((index, status), count) for index, each in upstreams.items() for status, count in each.statuses.items()),
        )
        yield counter(
            "upstream_failures",
            "Those of upstream_requests that got no answer, or none that came to its end, by what kept it away.",
            ("index", "reason"),
            (((index, reason), count) for index, each in upstreams.items() for reason, count in each.failures.items()),
        )
        yield histogram(
            "upstream_request_duration_seconds",
            "From the request to the head of the answer, the wait for a connection included.",
            ("index",),
            {(index,): each.durations for index, each in upstreams.items()},
        )
        yield counter(
            "upstream_received_bytes",
            "Bytes of bodies that came from upstreams, as they came: compressed ones count compressed.",
            ("index",),
            (((index,), each.received) for index, each in upstreams.items()),
        )


class Measured(Collector):
    """How it is now."""

    def __init__(self, vitals: Vitals) -> None:
        self._vitals = vitals

    def collect(self) -> Iterator[Metric]:
        """All families, with what they are now."""
        yield from self._server()
        yield from self._cache()
        yield from self._disk()
        yield from self._work()
        yield from self._clients()

    def _server(self) -> Iterator[Metric]:
        python = ".".join(map(str, sys.version_info[:3]))
        build = InfoMetricFamily(f"{PREFIX}build", "What runs here.")
        build.add_metric((), {"version": __version__, "python": python})
        yield build
        yield gauge("start_time_seconds", "When the server started, since the epoch.", (), self._vitals.started)

    def _cache(self) -> Iterator[Metric]:
        stats = self._vitals.store.stats()
        rooms = {"wheels": stats.wheels, "responses": stats.responses, "mounts": stats.mounts}
        kept = self._kept()
        text = "What the cache keeps, by the room whose limit it counts for"
        yield gauges("cache_files", f"{text}.", ("room", "kind"), ((key, count) for key, count, _ in kept))
        yield gauges("cache_bytes", f"{text}, in bytes.", ("room", "kind"), ((key, size) for key, _, size in kept))
        yield gauges(
            "cache_limit_bytes",
            "How large a room may grow (cache.max_size, cache.responses_max_size, cache.mounts_max_size) before what"
            " was used least recently is evicted.",
            ("room",),
            (((name,), room.limit) for name, room in rooms.items()),
        )
        yield counter(
            "evictions",
            "What was evicted for a room's limit or for free disk space.",
            ("room",),
            (((name,), room.evicted.count) for name, room in rooms.items()),
        )
        yield counter(
            "evicted_bytes",
            "The same in bytes.",
            ("room",),
            (((name,), room.evicted.bytes) for name, room in rooms.items()),
        )
        yield from self._proofs(rooms)
        removed = self._vitals.store.inventory.removed
        yield counter("removed_files", "What an operator removed or purged.", (), [((), removed.count)])
        yield counter("removed_bytes", "The same in bytes.", (), [((), removed.bytes)])
        yield gauge("memory_table_entries", "Rows of the cache at hand in memory.", (), stats.memory_count)
        yield gauge("memory_table_bytes", "What they take there.", (), stats.memory_bytes)
        heat = self._vitals.heat()
        yield gauge("hot_answers", "Answers that are ready to be sent again (cache.hot_max_size).", (), heat.answers)
        yield gauge("hot_bytes", "What they take in memory.", (), heat.bytes)
        text = "Answers given as their question's bytes came in (server.fast_lane); they are among the requests, too."
        yield counter("fast_lane_answers", text, (), [((), heat.given)])

    def _proofs(self, rooms: Mapping[str, RoomStats]) -> Iterator[Metric]:
        store = self._vitals.store
        yield counter(
            "damaged",
            "Bodies and rows that were no longer what was kept (their sha256 or checksum is another one): removed, to"
            " be fetched again.",
            ("room",),
            (((name,), room.damaged) for name, room in rooms.items()),
        )
        proven = store.verification.proven
        yield counter("verified_bodies", "Bodies read from the disk whose sha256 was right.", (), [((), proven.count)])
        yield counter("verified_bytes", "The same in bytes.", (), [((), proven.bytes)])
        yield gauge(
            "verified_time_seconds",
            "When all that is kept had last been verified (cache.verify_every), since the epoch; 0 for never.",
            (),
            store.rounds.last(),
        )

    def _kept(self) -> list[tuple[Labels, int, int]]:
        sums = self._vitals.store.inventory.sums()
        return [
            (("wheels", "wheel"), sums.wheels.count, sums.wheels.bytes),
            (("wheels", "sdist"), sums.sdists.count, sums.sdists.bytes),
            (("responses", "response"), sums.responses.count, sums.responses.bytes),
            (("mounts", "mount"), sums.mounts.count, sums.mounts.bytes),
        ]

    def _disk(self) -> Iterator[Metric]:
        disk = self._vitals.disk()
        if disk is not None:
            yield gauge("disk_free_bytes", "What may still be written on the disk of the cache.", (), disk[0])
            yield gauge(
                "disk_reserve_bytes",
                "What is to be left free there (cache.min_free, or 5 % of the disk when that is less): below it files"
                " are evicted, and nothing more is kept once that does not help.",
                (),
                disk[1],
            )
        degraded = self._vitals.store.degraded
        yield gauges(
            "store_degraded",
            "1 while the cache cannot be written or read, by what fails: requests are answered all the same, from"
            " upstreams.",
            ("reason",),
            [((degraded or "none",), int(degraded is not None))],
        )

    def _work(self) -> Iterator[Metric]:
        waiting = self._vitals.waiting()
        yield gauges(
            "fetches",
            "What is on its way from upstreams or being made, each once for all who want it: what=fill is a body"
            " that is written to the disk while clients read it.",
            ("what",),
            (((what,), each.under_way) for what, each in waiting.items()),
        )
        yield gauges(
            "waiters",
            "Requests that wait for those fetches.",
            ("what",),
            (((what,), each.waiters) for what, each in waiting.items()),
        )
        yield gauges(
            "waiters_most",
            "Requests that wait for the one fetch that most wait for; beyond waiters_limit they get a 503.",
            ("what",),
            (((what,), each.most) for what, each in waiting.items()),
        )
        yield gauge("waiters_limit", "limits.waiters.", (), self._vitals.limits.waiters)
        yield gauge("tasks", "Tasks of the event loop, this answer's included.", (), len(asyncio.all_tasks()))
        yield gauges(
            "upstream_resting_origins",
            "Hosts of an index that are left alone for now, after failures or because they asked for it.",
            ("index",),
            (((index,), count) for index, count in self._vitals.resting().items()),
        )

    def _clients(self) -> Iterator[Metric]:
        crowded = self._vitals.crowded()
        yield gauge("connections", "Client connections that are open.", (), crowded.now)
        yield gauge("connections_limit", "limits.client_connections.", (), self._vitals.limits.connections)
        yield counter(
            "connections_refused",
            "Client connections that were closed at once, by the setting whose limit they met.",
            ("limit",),
            (((limit,), count) for limit, count in crowded.refused.items()),
        )
