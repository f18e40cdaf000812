"""What is told of a row: a tight loop, for a list of 100,000 of them goes through it while others want to be served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from proxy.core.mounted import raw_name
from proxy.core.patterns import EVERYTHING, FILES, MOUNTS, RESPONSES, Kind, Selection, version_of
from proxy.core.urls import without_query
from proxy.directory import RoomName
from proxy.disk import Foreign, unseal
from proxy.entries import facts_of
from proxy.fence import name_of
from proxy.kept import Cursor, Kept
from proxy.stock import Seen, text_of

KINDS: Mapping[RoomName, frozenset[Kind]] = {"mounts": MOUNTS, "responses": RESPONSES, "wheels": FILES}
Used = tuple[Mapping[str, float], Mapping[str, float]]
"""When rows were used by key, lately and before: later than the database has it."""
# The year 10000, which no calendar here has.
_FAR = 253_402_300_800.0


class Listed(NamedTuple):
    """What is told of rows, and the rows themselves, in their order."""

    room: RoomName
    kept: list[Kept]
    rows: list[Seen]

    def cursor(self, number: int) -> Cursor:
        """The place behind that one of them."""
        rowid, tag, *_ = self.rows[number]
        return Cursor(self.room, tag.decode("latin-1"), rowid)


def is_everything(room: RoomName, selection: Selection) -> bool:
    """Whether all rows of that room are named."""
    return KINDS[room] <= selection.kinds and selection == Selection(EVERYTHING, kinds=selection.kinds)


def selected(room: RoomName, rows: Sequence[Seen], selection: Selection) -> list[Seen]:
    """Those rows that are named."""
    return [row for row in rows if selection.covers(*name_of(room, text_of(row[2]), text_of(row[1]), text_of(row[3])))]


def told(room: RoomName, rows: Sequence[Seen], selection: Selection, used: Used) -> Listed:
    """What is told of those that are named."""
    listed = Listed(room, [], [])
    everything = is_everything(room, selection)
    lately, before = used
    for row in rows:
        _, tag, octets, filename, size, stored, last, head = row
        key, path = octets.decode("utf-8", "replace"), filename.decode("utf-8", "replace")
        kind, index, project, name = name_of(room, key, tag.decode("utf-8", "replace"), path)
        if not everything and not selection.covers(kind, index, project, name):
            continue
        if kind == "mount" and name is not None:
            name = raw_name(name)
        try:
            url, sha256 = facts_of(unseal(head, octets), octets)
        except (Foreign, ValueError):
            url = sha256 = ""
        since = stored if type(stored) is float and 0.0 <= stored < _FAR else 0.0
        until = last if type(last) is float and 0.0 <= last < _FAR else 0.0
        if key in lately or key in before:
            until = max(until, lately.get(key, 0.0), before.get(key, 0.0))
        kept = Kept(
            kind,
            "file" if room == "wheels" else key.partition("|")[0],
            index,
            project,
            version_of(name, project),
            name or None,
            size,
            sha256 or None,
            without_query(url) or None,
            f"{room}/{path}" if path else None,
            since,
            until,
        )
        listed.kept.append(kept)
        listed.rows.append(row)
    return listed
