"""Content negotiation: which rendition a client wants (RFC 9110 §12.5, PEP 691). Nothing here ever raises."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal

JSON_V1 = "application/vnd.pypi.simple.v1+json"
HTML_V1 = "application/vnd.pypi.simple.v1+html"
HTML = "text/html"

UPSTREAM_ACCEPT = f"{JSON_V1}, {HTML_V1};q=0.2, {HTML};q=0.1"
"""The one Accept sent upstream for pages, whatever the client said: HTML has no sizes and no upload times, so
it is derived from JSON and never the other way round when the upstream leaves the choice."""

# PEP 691: "latest" is a request only; the answer names the real version.
_ALIASES = {
    "application/vnd.pypi.simple.latest+json": JSON_V1,
    "application/vnd.pypi.simple.latest+html": HTML_V1,
}
_OFFERED = (JSON_V1, HTML_V1, HTML)
# A bare `*/*` is a person's browser or an old client: both read text/html.
_OFFERED_TO_ANYONE = (HTML, JSON_V1, HTML_V1)

Coding = Literal["", "gzip", "zstd"]
"""What a body is coded in: the value of Content-Encoding, empty for none."""

# A comma or semicolon inside a quoted string separates nothing (RFC 9110 §5.6.4).
_ELEMENT = re.compile(r'(?:"(?:\\.|[^"\\])*+"|[^,"])++', re.DOTALL)
_PARAMETER = re.compile(r'(?:"(?:\\.|[^"\\])*+"|[^;"])++', re.DOTALL)
# RFC 9110 §12.4.2, with more digits than the three it allows.
_WEIGHT = re.compile(r"0(?:\.[0-9]*)?|1(?:\.0*)?")


@lru_cache(maxsize=256)
def _weighted(field: str) -> tuple[tuple[str, float], ...]:
    """The elements of an Accept-like field in lower case with their weights.

    An element is left out when its weight is malformed, or when it has a parameter no rendition of ours has
    (``text/html;level=1`` is not a range that our text/html falls in, RFC 9110 §12.5.1).
    """
    found = []
    for element in _ELEMENT.findall(field.lower()):
        value, *parameters = [part.strip() for part in _PARAMETER.findall(element)] or [""]
        weight = "1"
        for parameter in parameters:
            name, _, setting = (part.strip() for part in parameter.partition("="))
            if name == "q":
                weight = setting
                break  # what follows the weight are the extensions that RFC 9110 took out again
            if name and (name, setting.strip('"')) != ("charset", "utf-8"):
                weight = ""
                break
        if value and _WEIGHT.fullmatch(weight):
            found.append((_ALIASES.get(value, value), float(weight)))
    return tuple(found)


def _quality(accept: str, media_type: str) -> tuple[float, int]:
    """The weight of a media type, and how specific the range was that gave it: 2 a/b, 1 a/*, 0 */*.

    RFC 9110 §12.5.1: the most specific range that matches decides, whatever the others say. A type named
    twice gets its higher weight.
    """
    ranges = _weighted(accept)
    for specificity, wanted in ((2, media_type), (1, f"{media_type.partition('/')[0]}/*"), (0, "*/*")):
        weights = [weight for value, weight in ranges if value == wanted]
        if weights:
            return max(weights), specificity
    return 0.0, 0


def negotiate(accept: str | None, wanted_format: str | None) -> str | None:
    """The media type to answer with: JSON_V1, HTML_V1 or HTML; None means 406.

    ``wanted_format`` is the decoded ``?format=`` of PEP 691, a full media type; it wins over ``accept``.
    Without either the answer is HTML. Of equal weights the more specifically named type wins, then JSON.
    """
    if wanted_format is not None:
        # A query decoder that follows the form rules has turned the plus of `+json` into a space.
        wanted = wanted_format.strip().replace(" ", "+").lower()
        wanted = _ALIASES.get(wanted, wanted)
        return wanted if wanted in _OFFERED else None
    if accept is None or not accept.strip():
        return HTML
    qualities = {media_type: _quality(accept, media_type) for media_type in _OFFERED}
    best = max(qualities.values())
    if best[0] == 0.0:
        return None
    order = _OFFERED if best[1] else _OFFERED_TO_ANYONE
    return next(media_type for media_type in order if qualities[media_type] == best)


def accepts(accept: str | None, media_type: str) -> bool:
    """Whether a client with this Accept would take the type; one that says nothing takes everything."""
    if accept is None or not accept.strip():
        return True
    return _quality(accept, media_type.partition(";")[0].strip().lower())[0] > 0.0


def coding_of(accept_encoding: str | None) -> Coding:
    """The content coding to answer with (RFC 9110 §12.5.3): the one of the highest weight; zstd before gzip, and
    both before identity, which counts only where it is named.

    An absent field would allow any coding; the client that sends none mostly cannot decode, so it gets identity.
    So does one that takes none of ours. ``*`` means gzip: clients older than zstd say it, too.
    """
    weighted = _weighted(accept_encoding or "")
    named: dict[str, float] = {}
    for name, weight in weighted:
        name = "gzip" if name == "x-gzip" else name  # §8.4.1.3
        named[name] = max(weight, named.get(name, 0.0))
    zstd, gzip, identity = named.get("zstd", 0.0), named.get("gzip", named.get("*", 0.0)), named.get("identity", 0.0)
    if zstd > 0.0 and zstd >= max(gzip, identity):
        return "zstd"
    return "gzip" if gzip > 0.0 and gzip >= identity else ""
