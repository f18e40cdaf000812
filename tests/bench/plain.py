"""What aiohttp does at its simplest: ``python -m tests.bench.plain HOST PORT DIRECTORY``.

``/page/{coding}`` is ``page.{coding}`` of the directory, held in memory and sent as a web.Response; with
If-None-Match it is a 304. ``/files/{name}`` is a web.FileResponse.
"""

from __future__ import annotations

import sys
from pathlib import Path

from aiohttp import web

_ETAG = {"ETag": '"page"', "Vary": "Accept, Accept-Encoding", "Cache-Control": "max-age=600"}
_PAGE = {"Content-Type": "application/vnd.pypi.simple.v1+json", **_ETAG}


def application(directory: Path) -> web.Application:
    """The routes over that directory."""
    bodies = {place.suffix.removeprefix("."): place.read_bytes() for place in directory.glob("page.*")}

    async def healthz(request: web.Request) -> web.StreamResponse:
        return web.Response(text="alive")

    async def page(request: web.Request) -> web.StreamResponse:
        if "If-None-Match" in request.headers:
            return web.Response(status=304, headers=_ETAG)
        coding = request.match_info["coding"]
        return web.Response(body=bodies[coding], headers={**_PAGE, "Content-Encoding": coding})

    async def file(request: web.Request) -> web.StreamResponse:
        return web.FileResponse(directory / request.match_info["name"])

    served = web.Application()
    paths = {"/healthz": healthz, "/page/{coding}": page, "/files/{name}": file}
    served.add_routes([web.get(path, handler) for path, handler in paths.items()])
    return served


if __name__ == "__main__":
    web.run_app(application(Path(sys.argv[3])), host=sys.argv[1], port=int(sys.argv[2]), access_log=None, print=None)
