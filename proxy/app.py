"""The composition root: settings become rooms, rooms become a running server. Only this module knows everyone."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack

from aiohttp import http_parser

from proxy import admintoken, descriptors, heap, log
from proxy.address import Address, address_for, published, withdraw
from proxy.config import Settings
from proxy.entrance import Crowd
from proxy.events import Repeating
from proxy.explanations import Explanations
from proxy.extraction import Extraction
from proxy.files import FileLimits, Files
from proxy.fills import Fills
from proxy.gateway import Gateway
from proxy.jsonapi import JsonApi
from proxy.listbodies import ListBodies
from proxy.listening import Sockets
from proxy.lists import Lists
from proxy.lookups import Lookups, PageLimits
from proxy.manifests import Manifests
from proxy.metadata import Metadata
from proxy.mountrequests import MountLimits
from proxy.mounts import Mounts
from proxy.pages import Pages
from proxy.refreshes import Refreshes
from proxy.rules import mounts_of, rules_of
from proxy.sites import upstream_of
from proxy.startline import announce
from proxy.store import Store
from proxy.tls import BadPair, Certificate, reload
from proxy.unasked import Rooms
from proxy.upstream import Upstream
from proxy.wanted import Listings
from proxy.web.access import Access
from proxy.web.admin import Admin
from proxy.web.changes import Changes
from proxy.web.explain import Explainer
from proxy.web.forwarded import UNIX, Front
from proxy.web.health import health
from proxy.web.hot import HotTier
from proxy.web.landing import landing
from proxy.web.lane import Lane
from proxy.web.lane import fits as lane_fits
from proxy.web.listener import IN_ALL, PER_ADDRESS, Listener
from proxy.web.looks import Looks
from proxy.web.metrics import Metrics, scraped
from proxy.web.routes import Door, Route
from proxy.web.sending import Sender
from proxy.web.vitals import Bounds, Crowded, Heat, Vitals

_log = logging.getLogger("proxy")
_REQUEST_LINE_MAX = 4096
_FIELD_MAX = 8192
_THREADS = 32
_TURN = 0.0005
"""Seconds of the interpreter that a thread may keep from others who wait: a request has many short turns, and while a
list, a page or an archive is worked on it would wait 5 ms, Python's default, for each."""
_AFTER_CUT = 1.0
"""Seconds for handlers to notice that their connection is gone."""


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; returns 0. Raises OwnedElsewhere, StoreFailed, OSError (cannot listen)."""
    log.set_up(settings.log.format, settings.log.level)
    # The pure Python parser is the lenient one, and the one nobody fuzzes.
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        raise OSError("aiohttp lacks its C parser on this platform: install a wheel of aiohttp")
    sys.setswitchinterval(_TURN)
    heap.use_one_arena()
    enough = descriptors.ask_for(settings.limits.client_connections)
    if enough is not None:
        _log.warning("the system's limit on open files is enough for %d connections, not client_connections", enough)
    asyncio.run(serve(settings))
    return 0


async def serve(settings: Settings) -> None:
    """Open the rooms, listen, wait for the signal to stop, drain, close the rooms."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    # Name look-ups run there too and cannot be cancelled: a dead resolver must not keep spools from being written.
    loop.set_default_executor(ThreadPoolExecutor(_THREADS, thread_name_prefix="work"))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    certificate = _certificate(settings)
    loop.add_signal_handler(signal.SIGHUP, reload, certificate)
    async with AsyncExitStack() as rooms:
        metrics = Metrics([*(index.name for index in settings.index), *(mount.name for mount in settings.mount)])
        store, gateway, upstream = await _rooms(settings, rooms, metrics)
        withdraw(settings.cache.dir)
        observers = (log.access_log(), metrics)
        lane = _lane(settings, store, observers)
        operations: dict[str, Route] = {
            **health(lambda: not stopping.is_set(), lambda: store.degraded),
            **landing(_front(settings), [index.name for index in settings.index]),
            **scraped(metrics, _vitals(settings, store, gateway, upstream, lambda: _crowded(listener, crowd), lane)),
        }
        operations |= _admin(settings, store, gateway, metrics, operations)
        door = Door(
            gateway,
            Sender(stall=settings.limits.write_stall),
            operations,
            indexes=frozenset(index.name for index in settings.index),
            default=settings.index[0].name,
            hosts=frozenset(settings.server.allowed_hosts),
            front=_front(settings),
            observers=observers,
            mounts=frozenset(mount.name for mount in settings.mount),
            lane=lane,
        )
        listener = _listener(settings, door, lane)
        rooms.push_async_callback(listener.shutdown, _AFTER_CUT)
        sockets = Sockets()
        await sockets.open(settings.server.host, settings.server.port, settings.server.unix_socket)
        rooms.callback(sockets.close)
        context = None if certificate is None else certificate.context
        limits = settings.limits
        crowd = Crowd(limits.client_connections, limits.client_connections_per_address, _front(settings).trusts)
        await sockets.serve(listener, context, crowd, silence=limits.keepalive_timeout, stall=limits.write_stall)
        with published(settings.cache.dir, _address(settings, sockets)):
            announce(settings, sockets)
            await _settle(rooms)
            await stopping.wait()
        _log.info("stopping: draining for up to %g s", settings.server.drain, extra={"event": "stopping"})
        sockets.close()
        await _drain(listener, door, settings.server.drain)


async def _settle(rooms: AsyncExitStack) -> None:
    """What the first answers can do without."""
    await asyncio.to_thread(_load_the_rest)
    gc.freeze()  # What is here now stays: looking through all of it would hold everybody up, again and again.
    trimming = asyncio.create_task(heap.give_back_now_and_then())
    rooms.callback(trimming.cancel)


def _load_the_rest() -> None:
    """Whoever needs it before waits for it, as for any import."""
    from proxy.core import judge  # noqa: F401 - only loaded


def _address(settings: Settings, sockets: Sockets) -> Address:
    server = settings.server
    return address_for(sockets.addresses, sockets.path, server.tls_cert, server.allowed_hosts)


def _vitals(
    settings: Settings,
    store: Store,
    gateway: Gateway,
    upstream: Upstream,
    crowded: Callable[[], Crowded],
    lane: Lane | None,
) -> Vitals:
    limits = Bounds(settings.cache.min_free, settings.limits.client_connections, settings.limits.waiters)
    heat = Heat if lane is None else lane.heat
    return Vitals(store, gateway.waiting, upstream.resting, crowded, heat, limits, started=time.time())


def _admin(
    settings: Settings, store: Store, gateway: Gateway, metrics: Metrics, operations: Collection[str]
) -> Mapping[str, Route]:
    writes, reads = settings.admin.writes(), settings.admin.reads()
    made = admintoken.kept_or_made(store.directory) if writes is None else ""
    audit = log.audit_log()
    looks = Looks(
        store,
        Explainer(
            gateway,
            operations,
            indexes=frozenset(index.name for index in settings.index),
            default=settings.index[0].name,
            hosts=frozenset(settings.server.allowed_hosts),
            mounts=frozenset(mount.name for mount in settings.mount),
        ),
        min_free=settings.cache.min_free,
        served=lambda: (metrics.hits, metrics.misses),
        since=time.time(),
    )
    access = Access((lambda: made) if writes is None else writes.reveal, None if reads is None else reads.reveal)
    return Admin(access, looks, Changes(gateway, audit), _front(settings), audit).routes()


def _crowded(listener: Listener, crowd: Crowd) -> Crowded:
    """TLS connections are refused by the crowd, and the others by the listener."""
    return Crowded(len(listener.connections), {IN_ALL: 0, PER_ADDRESS: 0} | (listener.refused + crowd.refused))


async def _drain(listener: Listener, door: Door, seconds: float) -> None:
    """Let what is under way end; after ``seconds`` cut it, so that nobody takes a part for the whole."""
    listener.pre_shutdown()  # idle connections close now, the others after their answer
    try:
        async with asyncio.timeout(seconds):
            await door.idle()
            await listener.flushed()
    except TimeoutError:
        _log.warning("cutting what is still under way", extra={"event": "cutting"})
        listener.cut_all()


async def _rooms(settings: Settings, rooms: AsyncExitStack, metrics: Metrics) -> tuple[Store, Gateway, Upstream]:
    cache, limits = settings.cache, settings.limits
    store = await Store.open(
        cache.dir,
        max_size=cache.max_size,
        responses_max_size=cache.responses_max_size,
        mounts_max_size=cache.mounts_max_size,
        min_free=cache.min_free,
        ballast=cache.ballast,
        verify_every=cache.verify_every,
    )
    rooms.push_async_callback(store.close)
    upstream = upstream_of(settings, (metrics.observe_upstream,))
    rooms.push_async_callback(upstream.close)
    fills = Fills(store, upstream, waiters=limits.waiters)
    sites = {index.name: index.url for index in settings.index}
    rules = rules_of(settings)
    page_limits = PageLimits(
        limits.page_max, limits.list_max, limits.first_byte_timeout, limits.waiters, limits.probe_interval
    )
    file_limits = FileLimits(limits.range_fill_max, limits.unknown_file_max, limits.first_byte_timeout, limits.waiters)
    clock: Callable[[], float] = time.time
    manifests = Manifests(store)
    lookups = Lookups(sites, store, upstream, manifests, rules=rules, limits=page_limits, clock=clock)
    pages = Pages(lookups, manifests, store, rules=rules, limits=page_limits, clock=clock)
    json_api = JsonApi(sites, store, upstream, rules=rules, limits=page_limits, clock=clock)
    bodies = ListBodies(sites, fills, store, upstream, rules=rules, limit=page_limits.list_max, clock=clock)
    lists = Lists(bodies, store, rules=rules, limits=page_limits, clock=clock)
    listings = Listings(pages, store, rules=rules, clock=clock)
    files = Files(listings, fills, store, upstream, rules=rules, limits=file_limits, clock=clock)
    extraction = Extraction(files, listings, fills, fetch_max=limits.range_fill_max, clock=clock)
    metadata = Metadata(extraction, listings, store, waiters=limits.waiters)
    mount_limits = MountLimits(limits.waiters, limits.unknown_file_max)
    mounts = Mounts(mounts_of(settings), fills, store, upstream, limits=mount_limits, clock=clock)
    refreshes = Refreshes(lookups, pages, indexes=list(sites), rules=rules, limits=page_limits)
    all_of_them = Rooms(store, upstream, manifests, lookups, pages, json_api, bodies, lists, fills, files, mounts)
    explanations = Explanations(all_of_them, rules=rules, fetch_max=limits.range_fill_max, clock=clock)
    gateway = Gateway(lookups, pages, json_api, lists, files, metadata, mounts, fills, refreshes, explanations, store)
    rooms.push_async_callback(gateway.close)
    return store, gateway, upstream


def _front(settings: Settings) -> Front:
    trusted = settings.server.trusted_proxies
    networks = tuple(each for each in trusted if not isinstance(each, str))
    return Front(settings.server.public_url, networks, UNIX in trusted)


def _certificate(settings: Settings) -> Certificate | None:
    server = settings.server
    if server.tls_cert is None or server.tls_key is None:
        return None
    try:
        return Certificate(server.tls_cert, server.tls_key)
    except BadPair as error:
        # It was fine when the settings were read, a moment ago.
        raise OSError(f"server.{error.key}: {error.because}") from None


def _lane(settings: Settings, store: Store, observers: Collection[Repeating]) -> Lane | None:
    if not settings.server.fast_lane or not settings.cache.hot_max_size or not lane_fits():
        return None
    tier = HotTier(settings.cache.hot_max_size, observers)
    store.at_hand.watch(tier.changed)
    return Lane(tier, _front(settings))


def _listener(settings: Settings, door: Door, lane: Lane | None) -> Listener:
    return Listener(
        door.handle,
        connections_max=settings.limits.client_connections,
        per_address_max=settings.limits.client_connections_per_address,
        front=_front(settings),
        stall=settings.limits.write_stall,
        lane=lane,
        access_log=None,
        keepalive_timeout=settings.limits.keepalive_timeout,
        max_line_size=_REQUEST_LINE_MAX,
        max_field_size=_FIELD_MAX,
        tcp_keepalive=True,
        # Nobody may send us what is small and becomes large.
        auto_decompress=False,
    )
