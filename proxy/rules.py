"""What decisions need of the settings: for pages and files, and for each mount."""

from __future__ import annotations

from proxy.config import Settings
from proxy.core.fields import FOREVER
from proxy.core.messages import Rules
from proxy.mountrequests import Mount
from proxy.sections import Freshness
from proxy.sections import Mount as Section

_DAY = 86_400.0


def rules_of(settings: Settings) -> Rules:
    """For what indexes answer."""
    freshness = settings.freshness
    return Rules(
        default_ttl=freshness.default_ttl,
        max_ttl=freshness.max_ttl,
        negative_ttl=freshness.negative_ttl,
        stale_if_error=freshness.stale_if_error,
        stale_while_revalidate=freshness.stale_while_revalidate,
        stale_after=freshness.stale_after,
        reload=freshness.reload,
        min_reload_interval=freshness.min_reload_interval,
        offline=freshness.offline,
    )


def mounts_of(settings: Settings) -> list[Mount]:
    """All mounts, each with its rules."""
    return [Mount(each.name, each.url, mount_rules(settings, each), each.pass_credentials) for each in settings.mount]


def mount_rules(settings: Settings, mount: Section) -> Rules:
    """For what a mount answers: what it does not say is as for pages, but an explicit life is as long as its origin
    says. RFC 9111 §4.2.2 suggests a tenth of the time since Last-Modified, and wants care beyond a day."""
    freshness = settings.freshness
    inherited = {key: getattr(freshness, key) for key in Section.model_fields if key in Freshness.model_fields}
    own = mount.model_dump(include=set(inherited), exclude_none=True)
    return Rules(
        **{**inherited, **own},
        max_ttl=float(FOREVER),
        heuristic_fraction=0.1,
        heuristic_cap=_DAY,
        offline=freshness.offline,
        transparent=True,
    )
