"""The sections of the settings: every key with its type and its default, frozen. ``config`` reads them."""

from __future__ import annotations

import os
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator

from proxy import spelling
from proxy.credentials import (
    Basic,
    Bearer,
    Credentials,
    Kept,
    Netrc,
    Word,
    admin_token,
    netrc_path,
    read_admin_token,
    read_secret,
    read_token,
    usable_token,
)

FROM_ENVIRONMENT = frozenset({"password", "token"})
"""Keys of an index that are taken from the environment only."""


class About(ValueError):
    """A mistake that shows where several keys of one section are looked at together; ``key`` is the one to name."""

    def __init__(self, key: str, message: str) -> None:
        self.key = key
        super().__init__(message)


def _secret_of(given: SecretStr | None, file: Path | None, read: Callable[[Path], str]) -> Word | Kept:
    """What the environment gave goes before what a file holds."""
    if given is not None:
        return Word(given.get_secret_value())
    assert file is not None
    return Kept(file, read)


def _token(value: SecretStr) -> SecretStr:
    usable_token(value.get_secret_value())
    return value


def _admin_token(value: SecretStr) -> SecretStr:
    admin_token(value.get_secret_value())
    return value


def _positive(value: float) -> float:
    if value <= 0:
        raise ValueError("expected more than 0")
    return value


def _secret(value: object) -> SecretStr:
    """What ``config`` took from a variable. Anything else stood in a file or in a list in JSON, where people and
    backups read it."""
    if not isinstance(value, SecretStr):
        raise ValueError("is not taken from here: name a file that holds it (password_file, token_file)")
    if not value or not value.get_secret_value().isprintable():
        raise ValueError("expected one line of text")
    return value


def _readable(read: Callable[[Path], str]) -> Callable[[Path], Path]:
    """A file with a secret is read once at start, so that a mistake in it is noticed there; and later whenever it
    changes, by ``credentials``."""

    def judge(path: Path) -> Path:
        read(path)
        return path

    return judge


Port = Annotated[int, BeforeValidator(spelling.parse_port)]
Count = Annotated[int, BeforeValidator(spelling.parse_count)]
Bytes = Annotated[int, BeforeValidator(spelling.parse_size)]
SomeBytes = Annotated[Bytes, AfterValidator(_positive)]
Seconds = Annotated[float, BeforeValidator(spelling.parse_duration)]
SomeSeconds = Annotated[Seconds, AfterValidator(_positive)]
AllowedHost = Annotated[str, AfterValidator(spelling.parse_allowed_host)]
Directory = Annotated[Path, AfterValidator(spelling.parse_directory)]
PasswordFile = Annotated[Path, AfterValidator(spelling.parse_secret_file), AfterValidator(_readable(read_secret))]
TokenFile = Annotated[Path, AfterValidator(spelling.parse_secret_file), AfterValidator(_readable(read_token))]
Secret = Annotated[SecretStr, BeforeValidator(_secret)]
AdminToken = Annotated[SecretStr, AfterValidator(_admin_token)]
AdminTokenFile = Annotated[
    Path, AfterValidator(spelling.parse_secret_file), AfterValidator(_readable(read_admin_token))
]  # fmt: skip
TrustedProxy = Annotated[
    IPv4Network | IPv6Network | Literal["unix"], BeforeValidator(spelling.parse_trusted_proxy)
]  # fmt: skip
Reload = Literal["limited", "ignore", "honour"]
Minute, Hour, Day = 60.0, 3_600.0, 86_400.0


def _user_cache_dir() -> Path:
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("pip-cache-proxy"))


class Section(BaseModel):
    """What all sections share: frozen, an unknown key is a mistake. Sizes are bytes, durations seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Server(Section):
    """Where we listen and whom we answer. ``host``: addresses that all listen on ``port``, none for the
    ``unix_socket`` alone. ``allowed_hosts``: Host headers we answer to; empty means any. ``trusted_proxies``:
    peers whose X-Forwarded-* fields are believed, ``"unix"`` those of the socket. ``public_url`` has no final slash.
    ``fast_lane``: what was asked before is answered as its bytes come in."""

    host: Annotated[tuple[str, ...], BeforeValidator(spelling.parse_hosts)] = ("127.0.0.1",)
    port: Port = 3143
    unix_socket: Annotated[Path, AfterValidator(spelling.parse_socket_path)] | None = None
    tls_cert: Annotated[Path, AfterValidator(spelling.parse_pem_file)] | None = None
    tls_key: Annotated[Path, AfterValidator(spelling.parse_pem_file)] | None = None
    public_url: Annotated[str, AfterValidator(spelling.parse_public_url)] | None = None
    trusted_proxies: Annotated[tuple[TrustedProxy, ...], BeforeValidator(spelling.parse_list)] = ()
    allowed_hosts: Annotated[tuple[AllowedHost, ...], BeforeValidator(spelling.parse_list)] = ()
    drain: Seconds = 30.0
    fast_lane: bool = True

    @model_validator(mode="after")
    def _fits(self) -> Self:
        """Something to listen on; a certificate with its key. Both are read here, so that a typo is noticed at
        start, and not by the first client."""
        if not self.host and self.unix_socket is None:
            raise About("host", "expected an address, or a unix_socket to listen on instead")
        if self.tls_cert is None and self.tls_key is not None:
            raise About("tls_cert", "is required with tls_key")
        if self.tls_cert is not None:
            if self.tls_key is None:
                raise About("tls_key", "is required with tls_cert")
            from proxy.tls import BadPair, server_context

            try:
                server_context(self.tls_cert, self.tls_key)
            except BadPair as error:
                raise About(error.key, error.because) from None
        return self


class Cache(Section):
    """What is kept, and how much of it. The default ``dir`` is the user's cache directory."""

    dir: Directory = Field(default_factory=_user_cache_dir)
    max_size: SomeBytes = 20 * 10**9
    responses_max_size: SomeBytes = 2 * 10**9
    mounts_max_size: SomeBytes = 10 * 10**9
    min_free: Bytes = 10**9
    ballast: Bytes = 16 * 2**20
    verify_every: Seconds = 7 * Day
    hot_max_size: Bytes = 32 * 2**20


class Freshness(Section):
    """How long pages live, and what is served when they have outlived it (``core.messages.Rules``)."""

    default_ttl: Seconds = 5 * Minute
    max_ttl: Seconds = Day
    stale_if_error: Seconds = 7 * Day
    stale_while_revalidate: Seconds = 0.0
    stale_after: SomeSeconds = 1.0
    reload: Reload = "limited"
    min_reload_interval: Seconds = 10.0
    negative_ttl: Seconds = 60.0
    offline: bool = False


class Index(Section):
    """One upstream. ``url`` ends in a slash; ``proxy`` is a forward proxy; ``missing_status`` are the statuses that
    mean 404, sorted. Credentials: ``username`` with a password (Basic), or a token (Bearer), each from a file or,
    before that, from the environment; ``password`` and ``token`` hold what came from there and are never shown."""

    name: Annotated[str, AfterValidator(spelling.parse_index_name)]
    url: Annotated[str, AfterValidator(spelling.parse_index_url)]
    private: bool = False
    missing_status: Annotated[tuple[int, ...], BeforeValidator(spelling.parse_missing_status)] = (404, 410)
    proxy: Annotated[str, AfterValidator(spelling.parse_proxy_url)] | None = None
    ca_file: Annotated[str, AfterValidator(spelling.parse_ca_file)] | None = None
    username: Annotated[str, AfterValidator(spelling.parse_username)] | None = None
    password_file: PasswordFile | None = None
    token_file: TokenFile | None = None
    password: Secret | None = Field(default=None, repr=False, exclude=True)
    token: Annotated[Secret, AfterValidator(_token)] | None = Field(default=None, repr=False, exclude=True)

    def credentials(self) -> Credentials:
        """How this index is to know us: as it is configured, else as netrc says."""
        if self.password is not None or self.password_file is not None:
            return Basic(self.username or "", _secret_of(self.password, self.password_file, read_secret))
        if self.token is not None or self.token_file is not None:
            return Bearer(_secret_of(self.token, self.token_file, read_token))
        return Netrc(urlsplit(self.url).hostname or "", netrc_path(os.environ))

    @model_validator(mode="after")
    def _credentials_fit(self) -> Self:
        """Basic needs both of its halves, and a request has one Authorization."""
        password, token = self.password or self.password_file, self.token or self.token_file
        if self.username is not None and token is not None:
            raise About("username", "expected either a username or a token")
        if self.username is not None and password is None:
            raise About("username", "needs a password: set password_file, or the variable of this index")
        if self.username is None and password is not None:
            raise About("username", "is required with a password (a token has no username: token_file)")
        return self


class Mount(Section):
    """One tree of anything, below ``/raw/{name}/``. ``url`` ends in a slash; what is None is as in ``[freshness]``;
    ``default_ttl`` is for what says nothing of its age. ``pass_credentials``: a client's go on to it."""

    name: Annotated[str, AfterValidator(spelling.parse_index_name)]
    url: Annotated[str, AfterValidator(spelling.parse_mount_url)]
    private: bool = False
    default_ttl: Seconds = 0.0
    stale_if_error: Seconds | None = None
    stale_while_revalidate: Seconds | None = None
    reload: Reload | None = None
    min_reload_interval: Seconds | None = None
    pass_credentials: bool = False


class Admin(Section):
    """Who may use the admin API: ``token`` everything, ``read_token`` what changes nothing. A token goes before its
    file; with neither for ``token`` the server makes one (``admintoken``). None is ever shown."""

    token: AdminToken | None = Field(default=None, repr=False, exclude=True)
    token_file: AdminTokenFile | None = None
    read_token: AdminToken | None = Field(default=None, repr=False, exclude=True)
    read_token_file: AdminTokenFile | None = None

    def writes(self) -> Word | Kept | None:
        """The secret of who may do everything, None when none is configured."""
        return self._secret(self.token, self.token_file)

    def reads(self) -> Word | Kept | None:
        """The secret of who may look, None when none is configured."""
        return self._secret(self.read_token, self.read_token_file)

    @staticmethod
    def _secret(token: SecretStr | None, file: Path | None) -> Word | Kept | None:
        return None if token is None and file is None else _secret_of(token, file, read_admin_token)

    @model_validator(mode="after")
    def _tokens_differ(self) -> Self:
        """One token for both would let whoever should only look do everything."""
        writes, reads = self.writes(), self.reads()
        if writes is not None and reads is not None and writes.reveal() == reads.reveal():
            raise About("read_token", "expected another token than the one that may do everything")
        return self


class Limits(Section):
    """The bounds of everything: bytes of pages are decoded ones, connections those open at one time."""

    page_max: SomeBytes = 64 * 2**20
    list_max: SomeBytes = 128 * 2**20
    unknown_file_max: SomeBytes = 5 * 2**30
    range_fill_max: Bytes = 64 * 2**20
    waiters: Count = 2_000
    client_connections: Count = 4_096
    client_connections_per_address: Count = 1_024
    keepalive_timeout: SomeSeconds = 30.0
    write_stall: SomeSeconds = 30.0
    upstream_connections: Count = 20
    upstream_connections_per_host: Count = 10
    connect_timeout: SomeSeconds = 3.5
    first_byte_timeout: SomeSeconds = 8.0
    idle_timeout: SomeSeconds = 30.0
    page_timeout: SomeSeconds = Minute
    breaker_failures: Count = 5
    breaker_window: SomeSeconds = 30.0
    probe_interval: SomeSeconds = 5.0
    rest_max: Seconds = 5 * Minute


class Log(Section):
    """The log on standard error."""

    format: Literal["text", "json"] = "text"
    level: Literal["info", "warning", "error"] = "info"
