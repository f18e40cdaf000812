"""The words of ``pip cache``: the JSON of an answer becomes the lines a pip user knows. Nothing but text comes out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

Document = Mapping[str, Any]
"""An answer of the admin API, or a part of it."""

EMPTY = "No locally built wheels cached."
HEADING = "Cache contents:\n"


def size(count: int) -> str:
    """Decimal: bytes to 1000, a tenth of a kB to 10 kB, whole kB (cut, not rounded) to 1 MB, tenths of a MB above.
    Raises TypeError as ``number``."""
    number(count)
    if count <= 1_000:
        return f"{count} bytes"
    if count <= 10_000:
        return f"{count / 1_000:.1f} kB"
    if count <= 1_000_000:
        return f"{count // 1_000} kB"
    return f"{count / 1_000_000:.1f} MB"


def number(count: int) -> int:
    """A count as another machine sent it. Raises TypeError for what is none: a terminal might obey it."""
    if type(count) is not int or not 0 <= count < 2**63:
        raise TypeError("not a count")
    return count


def shown(text: str) -> str:
    """As a terminal may see it: names come from packages and from other machines."""
    return "".join(each if each.isprintable() else "?" for each in text)


def label(file: Document) -> str:
    """The file's name; where it has none what a response is, and the URL of what a mount answered."""
    if file["filename"] is not None:
        return shown(file["filename"])
    if file["kind"] == "mount":
        return shown(f"{file['url'] or file['what']} (mount {file['index']})")
    whose = f" of {file['project']}" if file["project"] else ""
    return shown(f"{file['what']}{whose} (index {file['index']})")


def item(file: Document) -> str:
    """One line of a list."""
    return f" - {label(file)} ({size(file['size'])})"


def location(directory: str, file: Document) -> str:
    """Its absolute path; "" for what lies in a database."""
    return "" if file["path"] is None else shown(f"{directory}/{file['path']}")


def info(about: Document) -> list[str]:
    """pip's lines, in pip's order; sdists and mounts, which pip has none of, follow its wheels."""
    responses, wheels, sdists, mounts = (about[each] for each in ("responses", "wheels", "sdists", "mounts"))
    return [
        f"Package index page cache location: {shown(about['locations']['responses'])}",
        f"Package index page cache size: {size(responses['bytes'])}",
        f"Number of HTTP files: {number(responses['count'])}",
        f"Locally built wheels location: {shown(about['locations']['wheels'])}",
        f"Locally built wheels size: {size(wheels['bytes'])}",
        f"Number of locally built wheels: {number(wheels['count'])}",
        f"Source distributions size: {size(sdists['bytes'])}",
        f"Number of source distributions: {number(sdists['count'])}",
        f"Mounts location: {shown(about['locations']['mounts'])}",
        f"Mounts size: {size(mounts['bytes'])}",
        f"Number of files of mounts: {number(mounts['count'])}",
    ]


def listing(items: Collection[str], kinds: Collection[str]) -> list[str]:
    """Lines made by ``item``, sorted as pip does; ``kinds`` are those that were asked for, none means all files."""
    if items:
        return [HEADING, *sorted(items)]
    names = {"sdist": "source distributions", "response": "responses", "mount": "files of mounts"}
    if not kinds or "wheel" in kinds:
        return [EMPTY]
    return [f"No {' or '.join(names[each] for each in names if each in kinds)} cached."]


def no_match(pattern: str | None) -> str:
    """The warning when nothing was removed; None is for everything, like ``*``."""
    return "No matching packages" + ("" if pattern in (None, "*") else f' for pattern "{shown(pattern or "")}"')


def removal(answer: Document, directory: str | None) -> list[str]:
    """What went; with a directory (``-v``) each of it by its path. What would go is named always."""
    removed = answer["removed"]
    amount = f"{number(answer['count'])} ({size(answer['bytes'])})"
    if answer["dry_run"]:
        heading = ["Would remove:\n", *sorted(map(item, removed))] if removed else []
        return [*heading, f"Files that would be removed: {amount}", "Nothing was removed."]
    each = [] if directory is None else [f"Removed {location(directory, file) or label(file)}" for file in removed]
    return [*each, f"Files removed: {amount}", f"Directories removed: {number(answer['directories'])}"]
