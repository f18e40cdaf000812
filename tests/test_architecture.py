"""The law of the house, read from the source: who may import whom, what core must not do, how long things get."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from packaging.requirements import Requirement
from pypi_simple import PYPI_SIMPLE_ENDPOINT

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "proxy").rglob("*.py"))

LONGEST_FILE = 300
LONGEST_FUNCTION = 50

# Every module has a room; a new one is entered here, and in the map in proxy/__init__.py.
ROOMS: dict[str, set[str]] = {
    "errors": {"errors"},
    "failpoints": {"failpoints"},
    "core": {"core"},
    "events": {"events"},
    # What travels from the gateway to web, and what is made of events: values and observers.
    "answer": {"answer"},
    "log": {"log"},
    "store": {
        "store",
        "workers",
        "room",
        "disk",
        "soundness",
        "memory",
        "entries",
        "bodies",
        "directory",
        "eviction",
        "sweep",
        "adoption",
        "rows",
        "kept",
        "listed",
        "inventory",
        "onlooker",
        "stock",
        "sums",
        "fence",
        "ballast",
        "unlogged",
        "verification",
        "rounds",
        "admintoken",
        "athand",
        "ahead",
    },
    "upstream": {
        "upstream",
        "hops",
        "calls",
        "connections",
        "uploads",
        "replies",
        "unpacking",
        "egress",
        "rests",
        "breaker",
    },
    "fills": {"fills", "fill", "follower", "segments", "source", "plan", "flights"},
    "gateway": {
        "gateway",
        "mounts",
        "mountrequests",
        "mountanswers",
        "looks",
        "looking",
        "shelf",
        "pages",
        "lookups",
        "turns",
        "outcomes",
        "manifests",
        "renditions",
        "derivations",
        "codings",
        "jsonapi",
        "documents",
        "lists",
        "listbodies",
        "conversion",
        "files",
        "wanted",
        "filebodies",
        "filereplies",
        "metadata",
        "extraction",
        "wheelfile",
        "explanations",
        "foretold",
        "refreshes",
        "unasked",
        "asking",
        "futile",
        "again",
    },
    "web": {"web"},
    # Small enough to be seen where settings are: whether a secret can be read is found at start.
    "credentials": {"credentials"},
    "config": {"config", "sections", "spelling", "tls"},
    "app": {"app", "rules", "sites", "listening", "entrance", "descriptors", "startline", "address", "heap"},
    "cli": {"cli", "__main__", "cachecommand", "cacheoptions", "pipwords", "remote", "unserved", "deepcheck"},
}

# cli -> app -> web -> gateway -> {fills, store, upstream} -> events -> core -> errors; a fill joins an upstream
# to the store, which know nothing of each other. Settings are seen by app and cli only.
_VALUES = {"events", "core", "errors"}
MAY_SEE: dict[str, set[str]] = {
    "errors": set(),
    "failpoints": set(),
    "core": {"errors"},
    "events": {"core", "errors"},
    "answer": _VALUES,
    "log": _VALUES,
    "store": {"failpoints"} | _VALUES,
    "credentials": {"errors"},
    "upstream": {"credentials"} | _VALUES,
    "fills": {"answer", "failpoints", "store", "upstream"} | _VALUES,
    "gateway": {"answer", "fills", "store", "upstream"} | _VALUES,
    "web": {"answer", "gateway", "fills", "store"} | _VALUES,
    "config": {"errors", "credentials"},
    "app": {"answer", "log", "web", "gateway", "fills", "store", "upstream", "config"} | _VALUES,
    "cli": {"app", "config", "credentials", "store"} | _VALUES,
}

# The command makes the JSON of the admin API itself where no server runs: it sees the modules that say what that is.
MAY_SEE_IN_WEB: dict[str, set[str]] = {"cli": {"web/models", "web/facts"}}

# Who may import which foreign library. Foreign exceptions stop there, too.
FOREIGN: dict[str, set[str]] = {
    "cachecontrol": {"core/judge"},
    "diskcache": {"store", "disk"},
    "pydantic": {"config", "sections", "web/answers", "web/questions"},
    "pydantic_core": {"config"},
    "pydantic_settings": {"config"},
    "pypi_simple": {"config"},
    "platformdirs": {"sections"},
    "prometheus_client": {"web/exposition", "web/families"},
    "aiohttp": {"hops", "upstream", "calls", "connections", "uploads", "replies", "web", "app"},
    "multidict": {"upstream", "web", "app"},
    "yarl": {"hops", "web", "app"},
    "selectolax": {"core/hypertext", "core/simple"},
    "packaging": {"core"},
    "msgspec": {"core"},
    "orjson": {"core", "entries", "renditions", "log", "web"},
    "jinja2": {"web/landing"},
    "backports": {"codings"},
    "isal": {"codings", "unpacking"},
    # Python 3.14's name for the same.
    "compression": {"codings"},
}

# What core may import from the standard library: nothing in it reads a clock, a disk, a socket or a random number.
PURE = {
    "__future__", "abc", "base64", "binascii", "bisect", "calendar", "collections", "collections.abc", "dataclasses",
    "datetime", "decimal", "email.utils", "enum", "fnmatch", "functools", "hashlib", "html", "html.parser",
    "ipaddress", "itertools", "json", "math", "operator", "re", "string", "struct", "types", "typing",
    "unicodedata", "urllib.parse", "zlib",
}  # fmt: skip

# Some of these can do more than compute.
IMPURE_CALLS = {"now", "utcnow", "today", "localtime", "time", "open", "print", "input", "__import__", "exec", "eval"}


def name_of(path: Path) -> str:
    """``core/urls`` for proxy/core/urls.py."""
    return path.relative_to(ROOT / "proxy").with_suffix("").as_posix()


def room_of(module: str) -> str:
    """The room of ``core/urls`` or ``store``."""
    top = module.partition("/")[0]
    rooms = [room for room, modules in ROOMS.items() if top in modules]
    assert rooms, f"proxy/{module}.py has no room: give it one in tests/test_architecture.py"
    return rooms[0]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything a file imports, in functions and under TYPE_CHECKING, too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            if node.module in ("proxy", "proxy.core", "proxy.web"):
                yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, node.module or ""


every_source = pytest.mark.parametrize("path", SOURCES, ids=name_of)
every_core = pytest.mark.parametrize("path", [p for p in SOURCES if p.parent.name == "core"], ids=name_of)


@every_source
def test_imports_go_down(path: Path) -> None:
    """cli -> app -> web -> gateway -> {fills, store, upstream} -> events -> core -> errors."""
    if (module := name_of(path)) == "__init__":
        assert list(imports(path)) == []  # `import proxy` costs nothing
        return
    room = room_of(module)
    for line, name in imports(path):
        if not name.startswith("proxy.") or name == "proxy.__version__":
            continue
        named = name.removeprefix("proxy.").replace(".", "/")
        seen = room_of(named)
        allowed = seen == room or seen in MAY_SEE[room] or named in MAY_SEE_IN_WEB.get(room, ())
        assert allowed, f"{path}:{line}: {room} must not see {seen}"


@every_source
def test_foreign_libraries_stay_where_they_belong(path: Path) -> None:
    """One importer for each: what it does to us can be read in one place."""
    module = name_of(path)
    for line, name in imports(path):
        library = name.partition(".")[0]
        if library == "proxy" or library in sys.stdlib_module_names:
            continue
        assert library in FOREIGN, f"{path}:{line}: {library} has no place yet"
        places = FOREIGN[library]
        assert module in places or module.partition("/")[0] in places, f"{path}:{line}: {library}"


@every_core
def test_core_imports_nothing_impure(path: Path) -> None:
    """No I/O, no clock, no chance: what core says depends on its arguments alone."""
    for line, name in imports(path):
        if name.partition(".")[0] in sys.stdlib_module_names:
            assert name in PURE, f"{path}:{line}: {name}"


@every_core
def test_core_neither_waits_nor_looks_around(path: Path) -> None:
    """No coroutine, no call that reads a clock or a file, no state of the module that changes."""
    for node in ast.walk(ast.parse(path.read_text())):
        assert not isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith | ast.Global), (
            f"{path}:{node.lineno}"
        )
        if isinstance(node, ast.Call):
            function = node.func
            called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
            assert called not in IMPURE_CALLS, f"{path}:{node.lineno}: {called}"
            # email.utils.formatdate() without a time reads the clock.
            assert called not in ("formatdate", "format_datetime") or node.args, f"{path}:{node.lineno}: {called}"


@every_source
def test_files_and_functions_stay_short(path: Path) -> None:
    """A file that outgrows its room is split along an idea."""
    text = path.read_text()
    assert len(text.splitlines()) <= LONGEST_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= LONGEST_FUNCTION, f"{path}:{node.lineno}: {node.name} has {lines} lines"


@every_source
def test_every_module_says_what_it_is_for(path: Path) -> None:
    """The first line of a file is its purpose."""
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_the_map_names_every_room() -> None:
    """proxy/__init__.py is where a newcomer starts, and it names modules that exist."""
    text = (ROOT / "proxy" / "__init__.py").read_text()
    named = set(re.findall(r"\b(\w+)\.py\b", text)) | set(re.findall(r"^\s*(\w+)/", text, re.MULTILINE))
    assert set(ROOMS) <= named
    assert all((ROOT / "proxy" / f"{name}.py").exists() or (ROOT / "proxy" / name).is_dir() for name in named)


def test_dependencies_are_those_that_are_imported() -> None:
    """Each is declared, with a reason in the line above it, and each that is declared is used."""
    text = (ROOT / "pyproject.toml").read_text()
    declared = tomllib.loads(text)["project"]["dependencies"]
    names = {Requirement(each).name.lower().replace("-", "_") for each in declared}
    used = {name.partition(".")[0] for path in SOURCES for _, name in imports(path)}
    foreign = used - sys.stdlib_module_names - {"proxy", "compression"}
    # What comes with a declared dependency and is part of its interface.
    brought = {"pydantic_core": "pydantic", "backports": "backports.zstd"}
    assert {brought.get(name, name) for name in foreign} == names
    for each in declared:
        assert re.search(rf'^ *# .+\n *"{re.escape(each)}",$', text, re.MULTILINE), each


def test_constraints_hold_every_dependency_at_one_version() -> None:
    """`make` installs what was tested; no line of it says where from."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines)
    pinned = {line.partition("==")[0].lower().replace("_", "-"): line.partition("==")[2] for line in lines}
    assert len(pinned) == len(lines)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for each in [*project["dependencies"], *(e for extra in project["optional-dependencies"].values() for e in extra)]:
        requirement = Requirement(each)
        assert requirement.specifier.contains(pinned[requirement.name.lower()]), each


def texts() -> Iterator[Path]:
    """Every file of the project, but not what tools and version control keep beside it."""
    beside = {".git", ".venv", "__pycache__", "build", "dist"}
    for path in ROOT.rglob("*"):
        parts = path.relative_to(ROOT).parts
        kept = not beside & set(parts) and not any(part.startswith(".") and part.endswith("_cache") for part in parts)
        if kept and path.is_file() and parts[0] not in (".hypothesis", ".coverage"):
            yield path


def test_no_registry_is_named_anywhere() -> None:
    """PyPI's address comes from pypi_simple, its file host from its pages. The names are made here as the
    program runs, so that this file is no exception."""
    host = urlsplit(PYPI_SIMPLE_ENDPOINT).hostname
    assert host is not None
    registries = [host, ".".join(["files", "python" + "hosted", "org"]), "python" + "hosted"]
    for path in texts():
        text = path.read_text(encoding="utf-8", errors="replace").lower()
        for registry in registries:
            assert registry not in text, f"{path} names {registry}"
