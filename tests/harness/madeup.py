"""Requests for the admin API that a machine makes up from its OpenAPI document: a program of its own, for it computes.

    python -m tests.harness.madeup URL TOKEN TIMES WARM...

TIMES multiplies the number of cases; WARM are URLs that fill the cache. It prints how many cases it sent,
and fails at the first answer that the document does not have, or that is a fault of the server's.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
CASES = {
    "GET /admin/cache/dir": (50, 25),
    "GET /admin/cache/info": (50, 25),
    "GET /admin/cache/list": (600, 150),
    "GET /admin/cache/explain": (150, 50),
    "POST /admin/cache/remove": (450, 100),
    "POST /admin/cache/purge": (100, 50),
    "POST /admin/cache/refresh": (600, 150),
}
"""Good ones, and bad ones, which take longer to make up."""
REFILL = 50
"""Cases until the cache is filled again, which some of them empty."""


def main(url: str, token: str, times: str, *warm: str) -> int:
    """All cases, one after the other."""
    cases = {label: tuple(int(number * float(times)) for number in numbers) for label, numbers in CASES.items()}
    headers = {"Authorization": f"Bearer {token}"}
    schema = schemathesis.openapi.from_url(f"{url}/admin/openapi.json", headers=headers)
    found: list[Any] = [each.ok() for each in schema.get_all_operations()]  # type: ignore[union-attr]  # or it ends
    # The document itself is no operation to it.
    assert {operation.label for operation in found} == set(CASES)
    with requests.Session() as session:
        session.trust_env = False  # no forward proxy of the environment
        session.headers.update(headers)
        for operation in found:
            for mode, number in zip(MODES, cases[operation.label], strict=True):
                _send(operation, mode, number, session, warm)
    print(sum(map(sum, cases.values())))
    return 0


def _send(operation: Any, mode: GenerationMode, number: int, session: requests.Session, warm: Sequence[str]) -> None:
    sent = 0

    @seed(20)
    @settings(
        max_examples=number,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        nonlocal sent
        if sent % REFILL == 0:
            for each in warm:
                assert session.get(each).status_code == 200
        answer = case.call(headers=session.headers, session=session)
        # The last check asks twice more, without a token and with a wrong one.
        case.validate_response(answer, checks=[*CHECKS, ignored_auth] if sent < 3 else CHECKS)
        sent += 1

    send()
    assert sent >= number, f"{operation.label}: {sent} of {number} {mode.value} ones"


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
