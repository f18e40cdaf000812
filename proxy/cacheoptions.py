"""The words after ``pip-cache-proxy cache``: read as pip reads its own, and explained.

pip's command line is optparse's (options may stand anywhere, ``--`` ends them), and so is this one: what is wrong in
one is wrong in the other, in the same words and with the same exit code.
"""

from __future__ import annotations

import optparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

VERBS = ("dir", "info", "list", "purge", "remove")
WRONG = 1
"""pip's exit code for a verb that is wrong, or has too many words after it or too few; 2 is for options."""

_ABOUT = {
    None: """\
  See and clear what the proxy keeps, with the verbs of pip cache.

  dir     where the cache lies
  info    how much is in it
  list    its wheels and sdists, or those that match a pattern
  remove  remove what matches a pattern
  purge   remove everything

  A pattern is pip's: a name without "-" is a project's (requests), one with "-" is the beginning of a
  file name (requests-2.3), * ? and [] stand for what they do in a shell (quote them).

  Where the cache is: --url or PIPCACHEPROXY_URL asks that server. Without, the settings say which
  directory it is (--cache-dir, PIPCACHEPROXY_CACHE__DIR, or --config and the file that serve gets):
  the server that holds it is asked, and when none does, the directory is opened for a moment.

Examples:
  pip-cache-proxy cache info
  pip-cache-proxy cache list requests
  pip-cache-proxy cache remove requests --dry-run
  pip-cache-proxy cache list --url http://cache.example.com:3143 --token-file token
""",
    "dir": """\
  Say where the cache lies. Asks nobody, unless there is a --url.

Examples:
  pip-cache-proxy cache dir
  du -sh "$(pip-cache-proxy cache dir)"
""",
    "info": """\
  Say where the pages and the files lie, how many there are, and how many bytes they have.

Examples:
  pip-cache-proxy cache info
  pip-cache-proxy cache info --format json          limits, hits and misses, too
""",
    "list": """\
  List wheels and sdists with their sizes; --kind response lists pages and other answers,
  --kind mount what mounts answered.

Examples:
  pip-cache-proxy cache list
  pip-cache-proxy cache list requests               a project's files
  pip-cache-proxy cache list "numpy-2.*"            wheels whose names begin so
  pip-cache-proxy cache list --index internal --kind sdist
  pip-cache-proxy cache list --format abspath       paths on the server's disk
  pip-cache-proxy cache list --format json          with hashes, URLs and times
""",
    "remove": """\
  Remove wheels and sdists that match; exactly "*" removes everything else, too. The next install
  fetches it again. Downloads that are under way end well.

Examples:
  pip-cache-proxy cache remove requests
  pip-cache-proxy cache remove "torch-2.1*" --dry-run
  pip-cache-proxy cache remove "*" --index internal
  pip-cache-proxy cache remove numpy --version 2.0.0 --kind wheel
""",
    "purge": """\
  Remove everything: wheels, sdists, pages, what mounts answered. Downloads that are under way end well.

Examples:
  pip-cache-proxy cache purge --dry-run
  pip-cache-proxy cache purge
""",
}

_USAGE = {
    "dir": "dir",
    "info": "info",
    "list": "list [<pattern>] [--format=[human, abspath, json]]",
    "remove": "remove <pattern> [--dry-run]",
    "purge": "purge [--dry-run]",
}

_SOME, CHANGES = ("list", "remove"), ("remove", "purge")
_OPTIONS: tuple[tuple[tuple[str, ...], Sequence[str], dict[str, Any]], ...] = (
    (("-h", "--help"), VERBS, {"action": "store_true", "help": "Show help."}),
    (
        ("--format",),
        VERBS,
        {
            "choices": ("human", "abspath", "json"),
            "default": "human",
            "help": "Select the output format among: human (default), abspath or json",
        },
    ),
    (("--index",), _SOME, {"metavar": "NAME", "help": "Only what came from the index, or the mount, of this name."}),
    (("--project",), _SOME, {"metavar": "NAME", "help": "Only what belongs to this project, however it is spelt."}),
    (("--version",), _SOME, {"metavar": "VERSION", "help": "Only this version (1.0 is 1.0.0)."}),
    (
        ("--kind",),
        _SOME,
        {
            "choices": ("wheel", "sdist", "response", "mount"),
            "action": "append",
            "help": "Only wheels, sdists, responses (pages, metadata) or what mounts answered; may be repeated.",
        },
    ),
    (("--dry-run",), CHANGES, {"action": "store_true", "help": "Remove nothing, say what would go."}),
    (("-v", "--verbose"), VERBS, {"action": "count", "help": "Give more output: the path of each file removed."}),
    (("--url",), VERBS, {"metavar": "URL", "help": "Ask the server there (PIPCACHEPROXY_URL)."}),
    (("--token-file",), VERBS, {"metavar": "FILE", "type": "path", "help": "Its token, instead of the settings'."}),
    (("--config",), VERBS, {"metavar": "FILE", "type": "path", "help": "The settings in TOML that serve gets."}),
    (("--cache-dir",), VERBS, {"metavar": "DIR", "help": "The directory of the cache."}),
)


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be done. ``pattern`` is None where none was given; ``filters`` hold what was."""

    verb: str
    pattern: str | None
    filters: dict[str, str | list[str]]
    dry_run: bool
    format: str
    verbose: bool
    url: str | None
    token_file: Path | None
    config: Path | None
    cache_dir: str | None


class WrongUse(Exception):
    """In pip's words."""


def read(words: Sequence[str]) -> Question:
    """The question in these words. Raises WrongUse; exits with 2 for an option that is wrong, with 0 after help."""
    options, rest = _parser(None).parse_args(list(words))
    verb = rest[0] if rest and rest[0] in VERBS else None
    if options.help:
        _parser(verb).print_help()
        sys.exit(0)
    if verb is None:
        raise WrongUse(f"Need an action ({', '.join(VERBS)}) to perform.")
    if len(rest) > (2 if verb in _SOME else 1):
        raise WrongUse("Too many arguments")
    if verb == "remove" and len(rest) < 2:
        raise WrongUse("Please provide a pattern")
    return _question(verb, rest[1] if len(rest) > 1 else None, options)


def _question(verb: str, pattern: str | None, options: optparse.Values) -> Question:
    for names, verbs, _ in _OPTIONS:
        # pip passes over --format where it means nothing. What narrows a removal must never be passed over.
        if verb not in verbs and getattr(options, _attribute(names)) is not None:
            _parser(verb).error(f"{names[-1]} option is for {' and '.join(verbs)}")
    given = ((name, getattr(options, name)) for name in ("index", "project", "version", "kind"))
    return Question(
        verb,
        pattern,
        {name: value for name, value in given if value is not None},
        bool(options.dry_run),
        options.format,
        bool(options.verbose),
        options.url,
        options.token_file,
        options.config,
        options.cache_dir,
    )


def _attribute(names: Sequence[str]) -> str:
    return names[-1].lstrip("-").replace("-", "_")


def _path(_: optparse.Option, __: str, value: str) -> Path:
    return Path(value)


class _Option(optparse.Option):
    TYPES = (*optparse.Option.TYPES, "path")
    TYPE_CHECKER = {**optparse.Option.TYPE_CHECKER, "path": _path}  # noqa: RUF012 - optparse wants it so


class _Parser(optparse.OptionParser):
    def error(self, msg: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(2, f"\n{msg}\n")

    def format_description(self, formatter: optparse.HelpFormatter) -> str:
        return self.description or ""  # its own would make one paragraph of the examples


def _parser(verb: str | None) -> _Parser:
    """With the help of that verb, None for all; every option is known to each, so that one is refused by name."""
    usage = [each for name, each in _USAGE.items() if verb in (None, name)]
    parser = _Parser(
        usage="\n  ".join(["", *(f"%prog {each}" for each in usage)]),
        prog="pip-cache-proxy cache",
        description=_ABOUT[verb],
        option_class=_Option,
        add_help_option=False,
    )
    for names, verbs, how in _OPTIONS:
        seen = how if verb is None or verb in verbs else {**how, "help": optparse.SUPPRESS_HELP}
        parser.add_option(*names, **seen)
    return parser
