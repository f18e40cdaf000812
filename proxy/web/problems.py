"""Errors as clients see them: problem JSON (RFC 9457) for programs, one plain sentence for people.

The text is ours and constant; nothing of a request or of an upstream is reflected. A request id leads to the log.
"""

from __future__ import annotations

from dataclasses import replace
from http import HTTPStatus

import orjson

from proxy.answer import Answer
from proxy.core.messages import CacheStatus, Headers
from proxy.core.negotiation import HTML, negotiate
from proxy.errors import ProxyError, Refused, UpstreamFailed

_HINTS = {
    401: "Send Authorization: Bearer with the token of [admin], or with the one in admin.token of the cache directory.",
    404: "Check the name: an index address ends in /simple, file addresses come from its pages, and mounts are below"
    " /raw/.",
    406: "Ask for one of them in Accept, or with ?format=.",
    421: "Use one of the names in server.allowed_hosts, or add this one to it.",
    502: "The proxy's log has the details under the request id.",
    503: "Try again; the proxy's log has the details under the request id.",
}

_RETRY_AFTER = 2


def problem(error: ProxyError, *, accept: str | None, request_id: str) -> Answer:
    """The answer that tells of an error."""
    because = error.because
    if not because.partition(" ")[0].endswith(":"):  # else the name of a field, which is spelt as it is
        because = f"{because[:1].upper()}{because[1:]}"
    sentence = f"{because}."
    hint = error.hint or _HINTS.get(error.status)
    if hint is not None:
        sentence = f"{sentence} {hint}"
    headers: Headers = (("Cache-Control", "no-store"), ("Vary", "Accept"))
    headers += error.headers
    # A failure is never final: installers come again, and those that read this field not at once.
    after = _RETRY_AFTER if error.retry_after is None and isinstance(error, UpstreamFailed) else error.retry_after
    if after is not None:
        headers += (("Retry-After", str(after)),)
    if is_browser(accept):
        body, media_type = f"{sentence} Request id: {request_id}\n".encode(), "text/plain; charset=utf-8"
    else:
        body, media_type = _document(error, sentence, request_id), "application/problem+json"
    status = CacheStatus(error.outcome, error.because, hit=error.outcome == "negative")
    if error.outcome == "missing":
        status = replace(status, forward="uri-miss", forward_status=404, stored=True)
    waited = 0.0
    if isinstance(error, UpstreamFailed):
        waited = error.upstream_seconds
        if error.upstream_status is not None:
            # RFC 9211 §2.2: "miss" leaves open whether something was stored that could not be used.
            status = replace(status, forward="miss", forward_status=error.upstream_status)
    headers = (("Content-Type", media_type), *headers)
    return Answer(error.status, headers, body, status, stop=len(body), upstream_seconds=waited)


def is_browser(accept: str | None) -> bool:
    """Whether a person will read the answer: a browser names text/html; a program says nothing, ``*/*`` or what it
    came for."""
    return HTML in (accept or "") and negotiate(accept, None) == HTML


def _blame(error: ProxyError) -> str:
    match error:
        case Refused():
            return "client"
        case UpstreamFailed():
            return "upstream"
        case _:
            return "proxy"


def _document(error: ProxyError, sentence: str, request_id: str) -> bytes:
    document = {
        "type": "about:blank",
        "title": HTTPStatus(error.status).phrase,
        "status": error.status,
        "detail": sentence,
        "because": error.because,
        "blame": _blame(error),
        "request_id": request_id,
    }
    return orjson.dumps(document)
