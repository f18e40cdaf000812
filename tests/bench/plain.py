"""What aiohttp does at its simplest: ``python -m tests.bench.plain HOST PORT DIRECTORY``.

``/page`` is ``page.gz`` of the directory, held in memory and sent as a web.Response; with If-None-Match it is a
304. ``/files/{name}`` is a web.FileResponse.
"""

from __future__ import annotations

import sys
from pathlib import Path

from aiohttp import web

_ETAG = {"ETag": '"page"', "Vary": "Accept, Accept-Encoding", "Cache-Control": "max-age=600"}
_PAGE = {"Content-Type": "application/vnd.pypi.simple.v1+json", "Content-Encoding": "gzip", **_ETAG}


def application(directory: Path) -> web.Application:
    """The routes over that directory."""
    place = directory / "page.gz"
    body = place.read_bytes() if place.exists() else b""

    async def healthz(request: web.Request) -> web.StreamResponse:
        return web.Response(text="alive")

    async def page(request: web.Request) -> web.StreamResponse:
        if "If-None-Match" in request.headers:
            return web.Response(status=304, headers=_ETAG)
        return web.Response(body=body, headers=_PAGE)

    async def file(request: web.Request) -> web.StreamResponse:
        return web.FileResponse(directory / request.match_info["name"])

    served = web.Application()
    served.add_routes([web.get("/healthz", healthz), web.get("/page", page), web.get("/files/{name}", file)])
    return served


if __name__ == "__main__":
    web.run_app(application(Path(sys.argv[3])), host=sys.argv[1], port=int(sys.argv[2]), access_log=None, print=None)
