"""Errors as clients see them."""

from __future__ import annotations

import json
from http import HTTPStatus

import pytest

from proxy.answer import Answer
from proxy.core.decide import Fail, Refuse, failure, refusal
from proxy.errors import MalformedPage, OwnedElsewhere, ProxyError, Refused, StoreFailed, UpstreamFailed, WrongBody
from proxy.filebodies import unsatisfiable
from proxy.web.problems import problem

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
PIP = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html; q=0.1, text/html; q=0.01"


def headers_of(answer: Answer) -> dict[str, str]:
    """The header list, in which no name is repeated."""
    headers = dict(answer.headers)
    assert len(headers) == len(answer.headers)
    return headers


@pytest.mark.parametrize(
    ("error", "status", "blame"),
    [
        (Refused("no such path", status=404), 404, "client"),
        (Refused("it is malformed"), 400, "client"),
        (Refused("only GET and HEAD are served", status=405, headers=(("Allow", "GET, HEAD"),)), 405, "client"),
        (Refused("this host name is not served here", status=421), 421, "client"),
        (UpstreamFailed("a malformed response"), 502, "upstream"),
        (UpstreamFailed("no connection", status=503, retry_after=2), 503, "upstream"),
        (refusal(Refuse("only-if-cached, and nothing fresh is here", 504)), 504, "client"),
        (refusal(Refuse("offline, and nothing is stored", 503)), 503, "proxy"),
        (failure(Fail("upstream is overloaded or broken", 503, 7)), 503, "upstream"),
        (unsatisfiable(5), 416, "client"),
        (Refused("the index has no such project", status=404, outcome="missing"), 404, "client"),
        (Refused("the index has no such project", status=404, outcome="negative"), 404, "client"),
        (WrongBody("another hash"), 502, "upstream"),
        (MalformedPage("the page is not JSON"), 503, "upstream"),
        (ProxyError("the proxy failed"), 500, "proxy"),
        (StoreFailed("the disk is full"), 500, "proxy"),
        (OwnedElsewhere("another process", 1), 500, "proxy"),
    ],
)
def test_problem_documents(error: ProxyError, status: int, blame: str) -> None:
    """RFC 9457: type, title, status and detail agree with the response; whose fault it was is one word."""
    answer = problem(error, accept=None, request_id="0123")
    assert answer.status == status
    assert isinstance(answer.body, bytes)
    assert answer.stop == len(answer.body)
    document = json.loads(answer.body)
    assert document["detail"].lower().startswith(f"{error.because.lower()}.")
    assert document | {"detail": ""} == {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": "",
        "because": error.because,
        "blame": blame,
        "request_id": "0123",
    }
    headers = headers_of(answer)
    assert headers["Content-Type"] == "application/problem+json"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Vary"] == "Accept"
    assert headers.get("Allow") == ("GET, HEAD" if status == 405 else None)
    assert headers.get("Content-Range") == ("bytes */5" if status == 416 else None)
    assert "ETag" not in headers
    after = 2 if error.retry_after is None and blame == "upstream" else error.retry_after
    assert headers.get("Retry-After") == (None if after is None else str(after))


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (None, "application/problem+json"),
        ("", "application/problem+json"),
        ("*/*", "application/problem+json"),
        ("application/json", "application/problem+json"),
        (PIP, "application/problem+json"),
        ("text/html;q=0", "application/problem+json"),
        (BROWSER, "text/plain; charset=utf-8"),
        ("text/html", "text/plain; charset=utf-8"),
    ],
)
def test_people_get_a_sentence(accept: str | None, media_type: str) -> None:
    """Who prefers text/html is a person, and reads one plain sentence with the request id."""
    answer = problem(Refused("no such path", status=404), accept=accept, request_id="0123")
    assert headers_of(answer)["Content-Type"] == media_type
    assert isinstance(answer.body, bytes)
    if media_type.startswith("text/plain"):
        assert answer.body.decode() == (
            "No such path. Check the name: an index address ends in /simple, file addresses come from its pages, and"
            " mounts are below /raw/. Request id: 0123\n"
        )


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        ("missing", "pip-cache-proxy; fwd=uri-miss; fwd-status=404; stored; "),
        ("negative", "pip-cache-proxy; hit; "),
        ("refused", "pip-cache-proxy; "),
    ],
)
def test_cache_status(outcome: str, said: str) -> None:
    """A remembered 404 came from the cache, one just given from the upstream, any other refusal from neither."""
    error = Refused("the index has no such project", status=404, outcome=outcome)
    status = problem(error, accept=None, request_id="").cache_status
    assert (status.outcome, status.because) == (outcome, error.because)
    assert status.header() == f'{said}detail="{error.because}"'


@pytest.mark.parametrize("answered", [None, 200, 401, 500])
def test_what_the_upstream_answered(answered: int | None) -> None:
    """It stands in Cache-Status as RFC 9211 words it, and no word of forwarding where there was no answer."""
    error = UpstreamFailed("it is broken", status=503, upstream_status=answered)
    error.upstream_seconds = 1.5
    made = problem(error, accept=None, request_id="")
    said = "" if answered is None else f"fwd=miss; fwd-status={answered}; "
    assert made.cache_status.header() == f'pip-cache-proxy; {said}detail="it is broken"'
    assert made.upstream_seconds == 1.5


def test_headers_of_an_error() -> None:
    """They go out in both forms, beside the ones every error has; none stands twice."""
    error = Refused("no byte", status=416, headers=(("Content-Range", "bytes */7"),))
    for accept in (BROWSER, None):
        headers = headers_of(problem(error, accept=accept, request_id=""))
        assert headers.items() >= {"Content-Range": "bytes */7", "Cache-Control": "no-store", "Vary": "Accept"}.items()


@pytest.mark.parametrize("accept", ["text/html; x=<script>", "<script>", "\r\nSet-Cookie: a=1", "\udc80text/html"])
def test_nothing_is_reflected(accept: str) -> None:
    """What the client sent is in no part of the answer."""
    answer = problem(Refused("no such path", status=404), accept=accept, request_id="0123")
    assert isinstance(answer.body, bytes)
    said = answer.body.decode() + repr(answer.headers) + answer.cache_status.header()
    assert not {"<script>", "Set-Cookie", "\udc80"} & {
        word for word in ("<script>", "Set-Cookie", "\udc80") if word in said
    }


def test_a_field_is_named_as_it_is_spelt() -> None:
    """A sentence begins with a capital letter, the name of a field does not: who sends Dry_run gets 400 again."""
    for because, detail in (("dry_run: expected true or false",) * 2, ("it is malformed", "It is malformed")):
        body = problem(Refused(because), accept=None, request_id="0123").body
        assert isinstance(body, bytes)
        assert json.loads(body)["detail"] == f"{detail}."


def test_an_error_may_know_better_what_to_do() -> None:
    """Its own hint stands in place of the one for its status."""

    class Elsewhere(Refused):
        status = 404
        hint = "Ask the other one."

    answer = problem(Elsewhere("not here"), accept=None, request_id="")
    assert isinstance(answer.body, bytes)
    assert json.loads(answer.body)["detail"] == "Not here. Ask the other one."
