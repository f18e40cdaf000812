"""Who is asked: the indexes and mounts of the settings, within their limits."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.breaker import Patience
from proxy.calls import Site
from proxy.config import Settings
from proxy.connections import Budget
from proxy.events import UpstreamObserver
from proxy.sections import Index
from proxy.upstream import Upstream


def upstream_of(settings: Settings, observers: Sequence[UpstreamObserver]) -> Upstream:
    """The one that asks them all."""
    limits = settings.limits
    mounts = [Site(mount.name, mount.url, mount.private) for mount in settings.mount]

    def budget(total: float | None) -> Budget:
        return Budget(
            connect=limits.connect_timeout,
            idle=limits.idle_timeout,
            total=total,
            pool=limits.upstream_connections,
            pool_per_host=limits.upstream_connections_per_host,
        )

    patience = Patience(limits.breaker_failures, limits.breaker_window, limits.probe_interval, limits.rest_max)
    return Upstream(
        [*map(_site, settings.index), *mounts],
        pages=budget(limits.page_timeout),
        files=budget(None),
        patience=patience,
        observers=observers,
    )


def _site(index: Index) -> Site:
    missing = frozenset(index.missing_status) - {404, 410}
    return Site(index.name, index.url, index.private, index.proxy, index.ca_file, missing, index.credentials())
