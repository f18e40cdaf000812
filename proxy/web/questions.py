"""What the admin API is asked: a pydantic model for each question, which refuses whatever else it is asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationError

from proxy.core.patterns import ALL, EVERYTHING, FILES, Kind, Selection
from proxy.core.urls import normalise_project
from proxy.errors import Refused
from proxy.web.answers import Model

LIMIT, MOST = 1_000, 100_000
"""Files in one answer of ``list``: when nothing is said, and at most."""


def _digits(value: object) -> object:
    """A number as a query spells it. What int() also takes (" 1_0 ") is none."""
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10 else value


Words = Annotated[str, Field(min_length=1, max_length=512)]
# Its bounds stand before the validator: behind it pydantic writes them into the schema as no JSON schema has them.
Limit = Annotated[int, Field(ge=1, le=MOST), BeforeValidator(_digits)]
Path = Annotated[str, Field(min_length=1, max_length=2048, pattern=r"^/[\x21-\x7e]*$")]
HeaderLine = Annotated[str, Field(max_length=1024, pattern=r"^[A-Za-z0-9-]{1,64}: ?[\x20-\x7e]*$")]

REPEATED = frozenset({"kind", "header"})
"""What a query may say several times; everything else stands there once."""


class Nothing(Model):
    """No parameters."""


class _Filtered(Model):
    project: Words | None = None
    version: Words | None = None
    index: Words | None = None

    def _selection(self, pattern: str, kinds: frozenset[Kind]) -> Selection:
        project = None if self.project is None else normalise_project(self.project)
        return Selection(pattern, project, self.version, self.index, kinds)


class ListQuery(_Filtered):
    """What to list; without ``kind`` wheels and sdists."""

    pattern: Words = EVERYTHING
    kind: Annotated[list[Kind], Field(max_length=len(ALL))] = Field(default_factory=list)
    limit: Limit = LIMIT
    cursor: Annotated[str, Field(min_length=1, max_length=2048)] | None = None

    def selection(self) -> Selection:
        """In the store's words."""
        return self._selection(self.pattern, frozenset(self.kind) or FILES)


class RemoveRequest(_Filtered):
    """What to remove; without ``kind`` wheels and sdists, and for the pattern ``*`` everything."""

    pattern: Words
    kind: Kind | Annotated[list[Kind], Field(min_length=1, max_length=len(ALL))] | None = None
    dry_run: bool = False

    def selection(self) -> Selection:
        """In the store's words."""
        if self.kind is None:
            return self._selection(self.pattern, ALL if self.pattern == EVERYTHING else FILES)
        return self._selection(self.pattern, frozenset([self.kind] if isinstance(self.kind, str) else self.kind))


class PurgeRequest(Model):
    """Everything goes."""

    dry_run: bool = False

    def selection(self) -> Selection:
        """In the store's words."""
        return Selection()


class RefreshRequest(Model):
    """Whose page to fetch again; without ``index`` the default one's."""

    project: Words
    index: Words | None = None


class ExplainQuery(Model):
    """Which request to explain: that of a client who sends these headers."""

    path: Path
    method: Literal["GET", "HEAD"] = "GET"
    header: Annotated[list[HeaderLine], Field(max_length=32)] = Field(default_factory=list)


Asked = TypeVar("Asked", bound=Model)


def checked(model: type[Asked], values: object) -> Asked:
    """The values as that model. Raises Refused (400), which names the field and what was expected and repeats
    nothing of them."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise Refused(_mistake(model, first["type"], first["loc"])) from None


def _mistake(model: type[Model], kind: str, place: tuple[int | str, ...]) -> str:
    fields = model.model_fields
    if not place:
        return "expected a JSON object"
    if place[0] not in fields:
        # Its name is the client's.
        return f"expected no other fields than {', '.join(fields)}" if fields else "expected no fields"
    name = str(place[0])
    return f"{name} is required" if kind == "missing" else f"{name}: expected {_EXPECTED[name]}"


_TEXT = "text of 1 to 512 characters"
_EXPECTED: Mapping[str, str] = {
    "pattern": _TEXT,
    "project": _TEXT,
    "version": _TEXT,
    "index": _TEXT,
    "kind": "wheel, sdist, response or mount, or several of them",
    "limit": f"a whole number from 1 to {MOST}",
    "cursor": "what an answer gave as its cursor",
    "dry_run": "true or false",
    "path": "a path that begins with a slash, as a URL has it",
    "method": "GET or HEAD",
    "header": "Name: value, at most 32 of them",
}
