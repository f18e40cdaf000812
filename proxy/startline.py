"""The start line: where we listen, which index, what to set, how to share."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from urllib.parse import urlsplit

from proxy import __version__, log
from proxy.config import Settings
from proxy.listening import Sockets, is_everywhere, shown


def announce(settings: Settings, sockets: Sockets) -> None:
    """Say it, whatever the level of the log: with port 0 nobody would know otherwise."""
    server, index = settings.server, settings.index[0]
    scheme = "http" if server.tls_cert is None else "https"
    addresses = [shown(host, port) for host, port in sockets.addresses]
    path = [] if sockets.path is None else [str(sockets.path)]
    host, port = sockets.addresses[0] if sockets.tcp else ("", 0)
    index_url = _index_url(settings, scheme, host, port)
    parts = [
        f"pip-cache-proxy {__version__} listens on {_listed([*addresses, *path])}",
        f"index {index.name} is {index.url}" + (" (offline)" if settings.freshness.offline else ""),
        *(f"/raw/{mount.name}/ is {mount.url}" for mount in settings.mount),
        *_advice(settings, index_url, [each for each, _ in sockets.addresses]),
    ]
    fields = {
        "version": __version__,
        "scheme": scheme,
        "host": host,
        "port": port,
        "addresses": addresses,
        "unix_socket": "".join(path),
        "index": index.name,
        "index_url": index_url,
        "mounts": [mount.name for mount in settings.mount],
        "cache_dir": str(settings.cache.dir),
    }
    line = "; ".join(parts)
    log.start_line().info("%s", line, extra={"event": "started", "fields": {**fields, "message": line}})


def _index_url(settings: Settings, scheme: str, host: str, port: int) -> str:
    """What PIP_INDEX_URL is set to; "" when only a front proxy knows."""
    if settings.server.public_url is not None:
        return f"{settings.server.public_url}/simple"
    if not host:
        return ""
    named = socket.gethostname() if is_everywhere(host) else host
    return f"{scheme}://{shown(named, port)}/simple"


def _advice(settings: Settings, index_url: str, hosts: list[str]) -> list[str]:
    if not index_url:
        return ["no address for clients: set public_url to the one that leads to the socket"]
    parts = urlsplit(index_url)
    advice = [f"set PIP_INDEX_URL={index_url}"]
    if parts.scheme == "https":
        if settings.server.public_url is None:
            advice.append(
                "where the system does not know the authority of its certificate: "
                "PIP_CERT and SSL_CERT_FILE (uv) name a file that holds it"
            )
    elif settings.server.public_url is not None or not all(map(_is_loopback, hosts)):
        # pip takes plain http only from a trusted host, except on loopback.
        advice.append(f"and PIP_TRUSTED_HOST={parts.hostname} (pip asks for it over plain http)")
    else:
        advice.append(f"to share it on a LAN: --host 0.0.0.0, and clients add PIP_TRUSTED_HOST={socket.gethostname()}")
    return advice


def _is_loopback(host: str) -> bool:
    return ip_address(host.partition("%")[0]).is_loopback


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
