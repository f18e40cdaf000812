"""Settings: flags over environment over file over defaults; frozen; a mistake is one line that names its key.

The file is TOML, the environment ``PIPCACHEPROXY_<SECTION>__<KEY>`` (pip reads every ``PIP_*`` as an option
of its own). ``config.example.toml`` explains every key to people. Nothing below ``app`` sees this module.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from proxy import spelling

PREFIX = "PIPCACHEPROXY_"
DELIMITER = "__"
_ENDPOINT = re.compile(r'^PYPI_SIMPLE_ENDPOINT(?:: *[\w.]+)? *= *"(https://[^"]+)"$', re.MULTILINE)


class SettingError(Exception):
    """A bad setting. ``key`` is a dotted key, a variable or a file; ``message`` says what was expected."""

    def __init__(self, key: str, message: str) -> None:
        # A key in TOML may be any string: what is shown stays on one line and does not steer a terminal.
        self.key = "".join(c if c.isprintable() else "?" for c in key)
        self.message = "".join(c if c.isprintable() else "?" for c in message)
        super().__init__(f"{self.key}: {self.message}")


def _positive(value: float) -> float:
    if value <= 0:
        raise ValueError("expected more than 0")
    return value


Port = Annotated[int, BeforeValidator(spelling.parse_port)]
Count = Annotated[int, BeforeValidator(spelling.parse_count)]
Bytes = Annotated[int, BeforeValidator(spelling.parse_size)]
SomeBytes = Annotated[Bytes, AfterValidator(_positive)]
Seconds = Annotated[float, BeforeValidator(spelling.parse_duration)]
SomeSeconds = Annotated[Seconds, AfterValidator(_positive)]
Host = Annotated[str, AfterValidator(spelling.parse_host)]
AllowedHost = Annotated[str, AfterValidator(spelling.parse_allowed_host)]
Directory = Annotated[Path, AfterValidator(spelling.parse_directory)]
Minute, Hour, Day = 60.0, 3_600.0, 86_400.0


def _user_cache_dir() -> Path:
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("pip-cache-proxy"))


class Section(BaseModel):
    """What all sections share: frozen, an unknown key is a mistake. Sizes are bytes, durations seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Server(Section):
    """Where we listen and whom we answer. ``allowed_hosts``: Host headers we answer to; empty means any."""

    host: Host = "127.0.0.1"
    port: Port = 3143
    allowed_hosts: Annotated[tuple[AllowedHost, ...], BeforeValidator(spelling.parse_list)] = ()
    drain: Seconds = 30.0


class Cache(Section):
    """What is kept, and how much of it. The default ``dir`` is the user's cache directory."""

    dir: Directory = Field(default_factory=_user_cache_dir)
    max_size: SomeBytes = 20 * 10**9
    responses_max_size: SomeBytes = 2 * 10**9
    min_free: Bytes = 10**9


class Freshness(Section):
    """How long pages live, and what is served when they have outlived it (``core.messages.Rules``)."""

    default_ttl: Seconds = 5 * Minute
    max_ttl: Seconds = Day
    stale_if_error: Seconds = 7 * Day
    stale_while_revalidate: Seconds = 0.0
    stale_after: SomeSeconds = 1.0
    reload: Literal["limited", "ignore", "honour"] = "limited"
    min_reload_interval: Seconds = 10.0
    negative_ttl: Seconds = 60.0
    offline: bool = False


class Index(Section):
    """One upstream. ``url`` ends in a slash; ``proxy`` is a forward proxy, ``ca_file`` a file that exists."""

    name: Annotated[str, AfterValidator(spelling.parse_index_name)]
    url: Annotated[str, AfterValidator(spelling.parse_index_url)]
    private: bool = False
    proxy: Annotated[str, AfterValidator(spelling.parse_proxy_url)] | None = None
    ca_file: Annotated[str, AfterValidator(spelling.parse_ca_file)] | None = None


class Limits(Section):
    """The bounds of everything: bytes of pages are decoded ones, connections those open at one time."""

    page_max: SomeBytes = 64 * 2**20
    list_max: SomeBytes = 128 * 2**20
    unknown_file_max: SomeBytes = 5 * 2**30
    range_fill_max: Bytes = 64 * 2**20
    waiters: Count = 2_000
    client_connections: Count = 4_096
    keepalive_timeout: SomeSeconds = 30.0
    write_stall: SomeSeconds = 30.0
    upstream_connections: Count = 20
    upstream_connections_per_host: Count = 10
    connect_timeout: SomeSeconds = 3.5
    first_byte_timeout: SomeSeconds = 8.0
    idle_timeout: SomeSeconds = 30.0
    page_timeout: SomeSeconds = Minute


class Log(Section):
    """The log on standard error."""

    format: Literal["text", "json"] = "text"
    level: Literal["info", "warning", "error"] = "info"


def _indexes(configured: tuple[Index, ...]) -> tuple[Index, ...]:
    if len({index.name for index in configured}) < len(configured):
        raise ValueError("expected a different name for every index")
    return configured or _pypi()


def _pypi() -> tuple[Index, ...]:
    return (Index(name="pypi", url=_pypi_endpoint()),)


def _pypi_endpoint() -> str:
    """``pypi_simple.PYPI_SIMPLE_ENDPOINT``, read from the package's source: importing it brings in an HTTP client and
    two HTML parsers, a fifth of the time a start takes, for one line of text."""
    spec = find_spec("pypi_simple")
    if spec is not None and spec.origin is not None:
        found = _ENDPOINT.search(Path(spec.origin).read_text(encoding="utf-8"))
        if found is not None:
            return found[1]
    from pypi_simple import PYPI_SIMPLE_ENDPOINT

    return PYPI_SIMPLE_ENDPOINT


class Settings(BaseSettings):
    """All settings. ``Settings()`` are the defaults: only ``load`` looks at file, environment and flags."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=PREFIX,
        env_nested_delimiter=DELIMITER,
        # Lists stay text until spelling.parse_list reads them: its message names the key and repeats nothing.
        enable_decoding=False,
    )

    server: Server = Field(default_factory=Server)
    cache: Cache = Field(default_factory=Cache)
    freshness: Freshness = Field(default_factory=Freshness)
    index: Annotated[tuple[Index, ...], BeforeValidator(spelling.parse_list), AfterValidator(_indexes)] = Field(
        default=(), validate_default=True
    )
    limits: Limits = Field(default_factory=Limits)
    log: Log = Field(default_factory=Log)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is passed in is what there is: the order of sources is ``load``'s business."""
        return (init_settings,)


SECTIONS: Mapping[str, type[Section]] = {
    "server": Server,
    "cache": Cache,
    "freshness": Freshness,
    "index": Index,
    "limits": Limits,
    "log": Log,
}

Values = Mapping[str, Any]


def load(config: Path | None = None, flags: Values | None = None) -> Settings:
    """The settings from flags, the environment and a file, in this order of precedence.

    ``flags`` is nested like the file: ``{"server": {"port": 3143}}``. Lists are replaced as a whole, never
    joined. Raises SettingError for the first mistake found.
    """
    file = _read_file(config) if config is not None else {}
    environment = _read_environment()
    try:
        return Settings(**_over(_over(file, environment), flags or {}))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        sources = (("command line", flags or {}), ("variable", environment), (f"in {config}", file))
        raise SettingError(_dotted(first["loc"]), _expected(first) + _origin(first["loc"], sources)) from None


def _read_file(path: Path) -> Values:
    try:
        return tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise SettingError(str(path), f"cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        # tomllib names places and single characters, the decoder positions: neither repeats a value.
        raise SettingError(str(path), f"is not valid TOML: {error}") from None


def _read_environment() -> Values:
    for name in sorted(os.environ):
        if not name.upper().startswith(PREFIX):
            continue
        section, _, key = name.lower().removeprefix(PREFIX.lower()).partition(DELIMITER)
        # An index is one table of many: its keys have no variables, the list as a whole has one.
        if section not in SECTIONS or bool(key) is (section == "index"):
            known = f"{PREFIX}<SECTION>{DELIMITER}<KEY>, and {PREFIX}INDEX with a list in JSON"
            raise SettingError(name, f"unknown variable; there are {known}")
    return EnvSettingsSource(Settings)()


def _over(below: Values, above: Values) -> dict[str, Any]:
    """``above`` laid over ``below``, tables merged key by key, everything else replaced."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        both = isinstance(under, Mapping) and isinstance(value, Mapping)
        merged[key] = _over(merged[key], value) if both else value
    return merged


def _origin(place: Sequence[int | str], sources: Sequence[tuple[str, Values]]) -> str:
    """Who gave the value at ``place``, in brackets: the command line, a variable, the file; "" for nobody."""
    section, key = str(place[0]), str(place[1]) if len(place) > 1 else ""
    for source, values in sources:
        given = values.get(section)
        whole = not isinstance(given, Mapping)
        if given is None or not (whole or not key or key in given):
            continue
        name = PREFIX + (section if whole else f"{section}{DELIMITER}{key}").upper()
        return f" ({name if source == 'variable' else source})"
    return ""


def _dotted(place: Sequence[int | str]) -> str:
    """``server.port``, ``index[0].url``: the key as people write it."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")


def _expected(error: ErrorDetails) -> str:
    """One clause in place of pydantic's sentence. Ours (value_error) are used as they are."""
    context, place = error.get("ctx", {}), error["loc"]
    match error["type"]:
        case "value_error":
            return str(context["error"])
        case "literal_error":
            return f"expected {context['expected']}"
        case "missing":
            return "is required"
        case "extra_forbidden":
            known = SECTIONS if len(place) == 1 else SECTIONS[str(place[0])].model_fields
            close = difflib.get_close_matches(str(place[-1]), known, n=1)
            return f"unknown key; did you mean {close[0]}?" if close else "unknown key"
        case "model_type" | "model_attributes_type" | "dict_type":
            return "expected a table"
        case "tuple_type":
            return "expected a list of tables ([[index]])" if place == ("index",) else "expected a list"
        case "bool_type" | "bool_parsing":
            return "expected true or false"
        case "string_type" | "path_type":
            return "expected text in quotes"
        case _:
            return error["msg"].lower()
