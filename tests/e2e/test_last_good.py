"""A page that is served in one format is there for those who want another: what it is made from is as much in use."""

from __future__ import annotations

from pathlib import Path

from tests.harness.index import JSON_V1
from tests.harness.packages import wheel
from tests.harness.world import fresh_name, world

HTML = {"Accept": "text/html", "Accept-Encoding": "gzip"}
JSON = {"Accept": JSON_V1, "Accept-Encoding": "gzip"}
RELEASES = 100


def test_the_base_of_a_page_in_use_is_in_use(tmp_path: Path) -> None:
    """Others come and go; this one is asked for all the time, in HTML, and then once in JSON, with nobody upstream."""
    with world(tmp_path, {"cache": {"responses_max_size": "400KB"}, "server": {"fast_lane": False}}) as here:
        mine = fresh_name()
        here.publish(*(wheel(mine, f"{number}.0") for number in range(RELEASES)))
        page = f"/simple/{mine}/"
        assert here.get(page, HTML).status == 200
        for number in range(30):
            other = fresh_name()
            here.publish(*(wheel(other, f"{number}.0") for number in range(RELEASES)))
            assert here.get(f"/simple/{other}/", JSON).status == 200
            got = here.get(page, HTML)
            assert "; hit" in got.headers["cache-status"], (number, got.headers["cache-status"])
        here.upstream.stop()
        assert here.get(page, HTML).status == 200
        assert here.get(page, JSON).status == 200
