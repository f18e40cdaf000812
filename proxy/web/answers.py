"""What the admin API answers: a pydantic model for each. ``facts`` makes them of what the store tells."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from proxy.core.patterns import Kind

Count = Annotated[int, Field(ge=0)]
Fields = list[tuple[str, str]]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class Model(BaseModel):
    """What all share: frozen, strict (nothing is converted), an unknown key is a mistake."""

    # Built when it is first used: what nobody asks for would take a tenth of the time that a start takes.
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", defer_build=True)


class File(Model):
    """One row of the cache. Sizes are bytes; ``url`` is the upstream's, ``path`` below the cache directory; of what a
    mount answered ``index`` is the mount, ``project`` empty."""

    project: str
    version: str | None
    filename: str | None
    kind: Kind
    what: str
    size: Count
    sha256: str | None
    index: str
    url: str | None
    path: str | None
    stored: Time
    last_used: Time


class Listing(Model):
    """Files, and where the list goes on; null at its end."""

    files: list[File]
    cursor: str | None


class Directory(Model):
    """Where the cache lies."""

    dir: str


class Locations(Model):
    """Where its rooms lie."""

    wheels: str
    responses: str
    mounts: str


class Amount(Model):
    """So many files or rows, and their bytes."""

    count: Count
    bytes: Count


class Limits(Model):
    """Bytes: of wheels and sdists, of responses, of what mounts answered, and of free disk space that is left alone."""

    max_size: Count
    responses_max_size: Count
    mounts_max_size: Count
    min_free: Count


class Info(Model):
    """What the cache holds. ``free`` is what the disk has left in bytes; ``hits`` and ``misses`` are those ``since``
    the server started, null where no server runs; ``degraded`` names what does not work, null when all does."""

    dir: str
    locations: Locations
    wheels: Amount
    sdists: Amount
    responses: Amount
    mounts: Amount
    limits: Limits
    free: Count | None
    hits: Count | None
    misses: Count | None
    hit_ratio: Annotated[float, Field(ge=0, le=1)] | None
    since: Time | None
    degraded: str | None


class Removal(Model):
    """What went, or with ``dry_run`` what would go; ``directories`` counts those that only the files were in."""

    removed: list[File]
    count: Count
    bytes: Count
    directories: Count
    dry_run: bool


class Refreshed(Model):
    """What became of one project's page: ``status`` is what the upstream answered, null when it was not asked or did
    not answer; ``files`` counts what the page lists now, ``serial`` is its X-PyPI-Last-Serial."""

    index: str
    project: str
    outcome: str
    because: str
    status: int | None
    files: Count | None
    serial: Count | None


class Stored(Model):
    """What is kept of an upstream's answer. ``age``, ``lifetime`` and ``ttl`` (what is left; negative once stale) are
    seconds, the last two null where they are endless; ``size`` and ``sha256`` are those of the body."""

    key: str
    url: str
    status: int
    size: Count
    sha256: str
    verified: bool
    received_at: Time
    age: int
    lifetime: int | None
    ttl: int | None
    fresh: bool
    etag: str | None
    last_modified: str | None
    serial: str | None
    body: str
    headers: Fields


class Listed(Model):
    """What a page says of a file; ``pin`` is its strongest hash, ``sha256=...``."""

    project: str
    pin: str | None
    size: Count | None


class Explanation(Model):
    """What would happen to a request now. ``status`` and ``outcome`` are null where they depend on what an upstream
    says (``asks_upstream`` then is true), and for an operation, which is not tried. ``falls_back``: should that fail,
    what is stored is served. ``refresh_behind``: the upstream is asked, and nobody waits for it. ``under_way``:
    somebody asks for the same at this moment. ``headers``: what the answer carries, as far as it is known."""

    method: str
    path: str
    kind: str
    decision: str
    because: str
    index: str | None
    project: str | None
    outcome: str | None
    status: int | None
    asks_upstream: bool
    upstream_url: str | None
    falls_back: bool
    refresh_behind: bool
    under_way: bool
    headers: Fields
    listed: Listed | None
    stored: Stored | None


class Problem(Model):
    """RFC 9457; ``because`` says it in a few words, ``blame`` is client, upstream or proxy, ``request_id`` leads to
    the line in the log."""

    type: str
    title: str
    status: int
    detail: str
    because: str
    blame: str
    request_id: str


def schemas(models: Iterable[type[Model]], template: str) -> dict[str, Any]:
    """JSON schemas (2020-12) of all models, and of what they are made of, by name; ``template`` is what a reference
    looks like, ``{model}`` its name."""
    asked: list[tuple[type[Model], JsonSchemaMode]] = [(model, "validation") for model in models]
    made: dict[str, Any] = models_json_schema(asked, ref_template=template)[1]["$defs"]
    return made
