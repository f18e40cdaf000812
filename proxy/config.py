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
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, ValidationInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from proxy import spelling
from proxy.sections import FROM_ENVIRONMENT, About, Admin, Cache, Freshness, Index, Limits, Log, Mount, Section, Server

PREFIX = "PIPCACHEPROXY_"
DELIMITER = "__"
_LISTS = frozenset({"index", "mount"})
_SECRET = re.compile(rf"{PREFIX}INDEX_([A-Z0-9][A-Z0-9_]*)_(USERNAME|PASSWORD|TOKEN)")
_ENDPOINT = re.compile(r'^PYPI_SIMPLE_ENDPOINT(?:: *[\w.]+)? *= *"(https://[^"]+)"$', re.MULTILINE)


class SettingError(Exception):
    """A bad setting. ``key`` is a dotted key, a variable or a file; ``message`` says what was expected."""

    def __init__(self, key: str, message: str) -> None:
        # A key in TOML may be any string: what is shown stays on one line and does not steer a terminal.
        self.key = "".join(c if c.isprintable() else "?" for c in key)
        self.message = "".join(c if c.isprintable() else "?" for c in message)
        super().__init__(f"{self.key}: {self.message}")


def _indexes(configured: tuple[Index, ...]) -> tuple[Index, ...]:
    if len({index.name for index in configured}) < len(configured):
        raise ValueError("expected a different name for every index")
    return configured or _pypi()


def _mounts(configured: tuple[Mount, ...], settings: ValidationInfo) -> tuple[Mount, ...]:
    """One namespace with the indexes: a name says whose connections, whose failures and whose entries are meant."""
    taken = {index.name for index in settings.data.get("index", ())}
    for mount in configured:
        if mount.name in taken:
            raise ValueError(f'"{mount.name}" is the name of another mount or an index, too: expected one of its own')
        taken.add(mount.name)
    return configured


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
    mount: Annotated[tuple[Mount, ...], BeforeValidator(spelling.parse_list), AfterValidator(_mounts)] = ()
    admin: Admin = Field(default_factory=Admin)
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
    "mount": Mount,
    "admin": Admin,
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
    environment, secrets = _read_environment()
    merged = _over(_over(file, environment), flags or {})
    merged, given = _with_secrets(merged, secrets)
    try:
        return Settings(**merged)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = _place(first)
        sources = (("command line", flags or {}), ("variable", environment), (f"in {config}", file))
        origin = f" ({given[place]})" if place in given else _origin(place, sources)
        raise SettingError(_dotted(place), _expected(first) + origin) from None


def _read_file(path: Path) -> Values:
    try:
        return tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise SettingError(str(path), f"cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        # tomllib names places and single characters, the decoder positions: neither repeats a value.
        raise SettingError(str(path), f"is not valid TOML: {error}") from None


def _read_environment() -> tuple[Values, Mapping[str, str]]:
    """What the variables set, nested like the file; and the credentials of indexes, variable to value."""
    secrets: dict[str, str] = {}
    for name in sorted(os.environ):
        if not name.upper().startswith(PREFIX) or name.upper() == f"{PREFIX}URL":
            continue  # the last is no setting: it says which server the command asks
        if _SECRET.fullmatch(name.upper()):
            secrets[name] = os.environ[name]
            continue
        section, _, key = name.lower().removeprefix(PREFIX.lower()).partition(DELIMITER)
        # An index is one table of many: its keys have no variables, the list as a whole has one. So is a mount.
        if section not in SECTIONS or bool(key) is (section in _LISTS):
            known = f"{PREFIX}<SECTION>{DELIMITER}<KEY>, {PREFIX}INDEX and {PREFIX}MOUNT with a list in JSON"
            secret = f"{PREFIX}INDEX_<NAME>_USERNAME, _PASSWORD and _TOKEN"
            raise SettingError(name, f"unknown variable; there are {known}, and {secret}")
    return EnvSettingsSource(Settings)(), secrets


def _with_secrets(
    merged: Values, secrets: Mapping[str, str]
) -> tuple[dict[str, Any], Mapping[tuple[int | str, ...], str]]:
    """The settings with each credential in the table of its index, and which variable gave what is at a place."""
    given: dict[tuple[int | str, ...], str] = {}
    try:
        tables = spelling.parse_list(merged.get("index", ()))
    except ValueError:
        return dict(merged), given  # its mistake is found where everything is checked
    if not secrets or not isinstance(tables, list | tuple):
        return dict(merged), given
    tables = [dict(each) if isinstance(each, Mapping) else each for each in tables]
    for variable, value in secrets.items():
        found = _SECRET.fullmatch(variable.upper())
        assert found is not None
        named, key = found[1], found[2].lower()
        spelt = [place for place, each in enumerate(tables) if isinstance(each, dict) and _in_capitals(each) == named]
        if len(spelt) != 1:
            raise SettingError(variable, "belongs to no index" if not spelt else "belongs to more than one index")
        given["index", spelt[0], key] = variable
        tables[spelt[0]][key] = SecretStr(value) if key in FROM_ENVIRONMENT else value
    return {**merged, "index": tables}, given


def _in_capitals(table: Mapping[str, Any]) -> str:
    """The name of an index as a variable's name holds it."""
    return re.sub("[.-]", "_", str(table.get("name")).upper())


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


def _place(error: ErrorDetails) -> tuple[int | str, ...]:
    """Where the mistake is. One about several keys of a table is at the one it names."""
    about = error.get("ctx", {}).get("error")
    return (*error["loc"], about.key) if isinstance(about, About) else error["loc"]


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
            known = set(SECTIONS) if len(place) == 1 else set(SECTIONS[str(place[0])].model_fields) - FROM_ENVIRONMENT
            close = difflib.get_close_matches(str(place[-1]), known, n=1)
            return f"unknown key; did you mean {close[0]}?" if close else "unknown key"
        case "model_type" | "model_attributes_type" | "dict_type":
            return "expected a table"
        case "tuple_type":
            return f"expected a list of tables ([[{place[0]}]])" if place[0] in _LISTS else "expected a list"
        case "bool_type" | "bool_parsing":
            return "expected true or false"
        case "string_type" | "path_type":
            return "expected text in quotes"
        case _:
            return error["msg"].lower()
