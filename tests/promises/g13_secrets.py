"""No secret that passes through here is seen where it does not belong: of operators, of upstreams, of clients."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import quote

from tests.harness.behaviours import Answer, cut, redirect
from tests.harness.index import JSON_V1
from tests.harness.origin import Told
from tests.harness.packages import Distribution, wheel
from tests.harness.server import ROOT, ProxyServer, clean_environment
from tests.harness.upstream import Upstream
from tests.harness.wire import Wire
from tests.promises.promise import Measured, Promise, Size

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PROMISE = Promise(
    "G13", "secrets", "20 planted canaries: 0 in logs, metrics, errors, admin answers, cache files, argv"
)
# Where each is planted. The first ones are an operator's, and have to reach somebody; then what an upstream says, and
# what a client does.
CANARIES: Mapping[str, str] = {
    name: "cnry" + hashlib.sha256(name.encode()).hexdigest()[:40]
    for name in (
        "password_file", "password_variable", "token_file", "token_variable", "netrc", "admin_token", "read_token",
        "link_query", "document_query", "link_userinfo", "redirect_query", "refused_redirect", "set_cookie",
        "error_body", "realm", "field",
        "basic", "bearer", "cookie", "query", "file_query", "proxy_authorization", "referer", "own_field", "userinfo",
        "wrong_token", "admin_query", "explained", "mount_bearer", "mount_cookie", "mount_query", "mount_body",
        "mount_unwanted",
    )
}  # fmt: skip
LISTED = frozenset({"link_query", "document_query"})
"""Files are fetched by these: they lie where what a page listed is kept."""
LISTING = frozenset({"listing"})


def spellings(secret: str) -> list[bytes]:
    """As it is, and in Base64, wherever it begins in a group of three."""
    coded = (base64.b64encode(bytes(start) + secret.encode())[4:-4] for start in range(3))
    return [secret.encode(), *coded]


def seen_in(data: bytes, without: frozenset[str] = frozenset()) -> set[str]:
    """Those that stand there."""
    return {
        name
        for name, secret in CANARIES.items()
        if name not in without and any(spelled in data for spelled in spellings(secret))
    }


@dataclass(slots=True)
class Day:
    """What is asked, and all that was shown: ``shown`` holds a place and what was to be read there."""

    proxy: ProxyServer
    upstream: Upstream
    netrc: Upstream
    files: Sequence[Distribution]
    shown: list[tuple[str, bytes]] = field(default_factory=list)

    def ask(self, path: str, *lines: str, method: str = "GET", body: bytes = b"") -> Told:
        """A request, and all of its answer is shown."""
        length = [f"Content-Length: {len(body)}"] if body else []
        head = "".join(f"{line}\r\n" for line in (f"{method} {path} HTTP/1.1", "Host: x", *lines, *length))
        with Wire(self.proxy.host, self.proxy.port) as wire:
            told = wire.ask(f"{head}\r\n".encode() + body, method)
        place = f"{method} {path.partition('?')[0]} ({told.status})"
        self.shown.append((place, repr(told.lines).encode() + undone(told.body)))
        return told

    def admin(self, path: str, token: str = "admin_token", body: object = None) -> Told:
        """A request to the admin API."""
        lines = [f"Authorization: Bearer {CANARIES[token]}", "Content-Type: application/json"]
        data = b"" if body is None else json.dumps(body).encode()
        return self.ask(path, *lines, method="GET" if body is None else "POST", body=data)

    def where(self, index: str, file: Distribution, suffix: str = "") -> str:
        """A file's path here."""
        upstream = self.netrc if index == "netrc" else self.upstream
        return f"/files/{index}/{upstream.location(file)}{suffix}"

    def look_around(self) -> None:
        """Its arguments, and all that those whom it started were given."""
        pid = self.proxy.process.pid
        self.shown.append(("argv", Path(f"/proc/{pid}/cmdline").read_bytes()))
        for status in Path("/proc").glob("[0-9]*/status"):
            with contextlib.suppress(OSError):
                if f"\nPPid:\t{pid}\n" in status.read_text():
                    for name in ("cmdline", "environ"):
                        self.shown.append((f"{name} of a child", (status.parent / name).read_bytes()))


def undone(body: bytes) -> bytes:
    """Bytes with what can be read of them when a coding is undone."""
    with contextlib.suppress(OSError, EOFError):
        return body + (gzip.decompress(body) if body.startswith(b"\x1f\x8b") else b"")
    with contextlib.suppress(zstd.ZstdError):
        return body + (zstd.decompress(body) if body.startswith(b"\x28\xb5\x2f\xfd") else b"")
    return body


def page(day: Day, file: Distribution) -> bytes:
    """The file's page with secrets in it."""
    links = {
        file.filename: f"{day.upstream.index.url_of(file)}?X-Signature={CANARIES['link_query']}",
        "other-1.0.tar.gz": f"http://user:{CANARIES['link_userinfo']}@example.com/other-1.0.tar.gz",
    }
    files = [{"filename": name, "url": url, "hashes": {}} for name, url in links.items()]
    return json.dumps({"meta": {"api-version": "1.0"}, "name": file.project, "files": files}).encode()


def of_operators(day: Day) -> None:
    """Every index once: cold, warm, refused, broken."""
    for index, file in zip(("file", "variable", "token", "bearer", "netrc"), day.files, strict=False):
        upstream = day.netrc if index == "netrc" else day.upstream
        path = f"/index/{index}/simple/{file.project}/"
        failures: list[Answer] = [Answer(status=status, body=b"no") for status in (401, 403, 500, 502)]
        for behaviour in (*failures, cut(10), Answer(body=b"<html>no page")):
            upstream.script(f"/simple/{file.project}/", behaviour)
            day.ask(path)
        upstream.script(f"/simple/{file.project}/")
        upstream.script(upstream.path_of(file), Answer(corrupt=20), Answer(status=401), Answer())
        for where in (path, path, *(day.where(index, file),) * 4, day.where(index, file, ".metadata")):
            day.ask(where)
        day.ask(f"/index/{index}/pypi/{file.project}/json")
        day.ask(f"/index/{index}/simple/")


def of_upstreams(day: Day) -> None:
    """What an upstream says beside what was asked of it."""
    file, moved, broken = day.files[5:8]
    told = (("Set-Cookie", f"s={CANARIES['set_cookie']}"), ("X-Debug", CANARIES["field"]))
    document_of = partial(Answer, extra=told, without=("Content-Encoding",))
    shown = document_of(body=page(day, file), headers={"Content-Type": JSON_V1})
    day.upstream.script(f"/simple/{file.project}/", shown)
    day.upstream.script(day.upstream.path_of(file), Answer(extra=told))
    released = {"filename": file.filename, "url": f"{day.upstream.origin}/x/{file.filename}"}
    released["url"] += f"?X-Signature={CANARIES['document_query']}"
    document = {"info": {"name": file.project}, "urls": [released], "releases": {"1.0": [released]}}
    day.upstream.script(f"/pypi/{file.project}/json", document_of(body=json.dumps(document).encode()))
    for accept in (JSON_V1, "text/html", "application/json"):
        for coding in ("identity", "gzip", "zstd"):
            day.ask(f"/simple/{file.project}/", f"Accept: {accept}", f"Accept-Encoding: {coding}")
            day.ask(f"/pypi/{file.project}/json", f"Accept-Encoding: {coding}")
    for method in ("HEAD", "GET", "GET"):
        day.ask(day.where("file", file), method=method)
    signed = f"{day.upstream.files_url}{day.upstream.path_of(moved)}?X-Signature={CANARIES['redirect_query']}"
    day.upstream.script(day.upstream.path_of(moved), redirect(signed), Answer())
    day.ask(f"/simple/{moved.project}/")
    day.ask(day.where("file", moved))
    refused = redirect(f"ftp://u:{CANARIES['refused_redirect']}@10.0.0.1/?s={CANARIES['refused_redirect']}")
    challenge = {"WWW-Authenticate": f'Basic realm="{CANARIES["realm"]}"'}
    for status in (400, 401, 403, 404, 407, 418, 429, 500, 503):
        said = Answer(status=status, body=f"<html>{CANARIES['error_body']}".encode(), headers=challenge)
        day.upstream.script(f"/simple/{broken.project}/", said, refused)
        day.upstream.script(f"/pypi/{broken.project}/json", said, refused)
        for path in (f"/simple/{broken.project}/", f"/pypi/{broken.project}/json"):
            day.ask(path, "Cache-Control: no-cache")
            day.ask(path, "Cache-Control: no-cache")
    day.upstream.script(f"/simple/{broken.project}/")
    day.ask(f"/simple/{broken.project}/", "Cache-Control: no-cache")
    day.upstream.script(day.upstream.path_of(broken), refused, Answer(status=500, body=CANARIES["error_body"].encode()))
    for _ in range(3):
        day.ask(day.where("file", broken))


def of_clients(day: Day) -> None:
    """What clients say of themselves, wherever we answer."""
    at = CANARIES
    password = base64.b64encode(f"user:{at['basic']}".encode()).decode()
    fields = (
        f"Cookie: session={at['cookie']}", f"Proxy-Authorization: Basic {at['proxy_authorization']}",
        f"Referer: https://example.com/?t={at['referer']}", f"X-Api-Key: {at['own_field']}",
    )  # fmt: skip
    file = day.files[0]
    for authorization in (f"Basic {password}", f"Bearer {at['bearer']}"):
        for path in (
            f"/simple/{file.project}/", "/simple/", f"/pypi/{file.project}/json", day.where("file", file), "/",
            "/healthz", "/readyz", "/metrics", "/nowhere", "/simple/nobody-has-this/", "/simple/Not_Normal/",
            "/simple/-/", "/admin/",
        ):  # fmt: skip
            day.ask(f"{path}?token={at['query']}", f"Authorization: {authorization}", *fields)
            day.ask(path, f"Authorization: {authorization}", *fields, method="DELETE")
    day.ask(f"{day.where('file', file)}?X-Signature={at['file_query']}", *fields)
    day.ask(f"http://user:{at['userinfo']}@example.com/simple/")
    day.ask(f"/simple/?format={at['query']}")
    for mount, (bearer, cookie) in {
        "keys": ("mount_bearer", "mount_cookie"), "plain": ("mount_unwanted", "mount_unwanted"),
    }.items():  # fmt: skip
        lines = (f"Authorization: Bearer {at[bearer]}", f"Cookie: s={at[cookie]}")
        for path in ("public", "own", "broken", "nothing"):
            for _ in range(2):
                day.ask(f"/raw/{mount}/{path}?X-Signature={at['mount_query']}", *lines)
        day.ask(f"/raw/{mount}/own", *lines, method="PUT", body=at["mount_body"].encode())


def of_admins(day: Day) -> None:
    """Tokens that are right, and others."""
    path = f"/simple/{day.files[0].project}/"
    for token in ("admin_token", "read_token", "wrong_token"):
        for where in ("dir", "info", "list?limit=100", "list?pattern=*", "nowhere"):
            day.admin(f"/admin/cache/{where}", token)
        day.admin(f"/admin/cache/list?pattern=x&token={CANARIES['admin_query']}", token)
        day.admin("/admin/openapi.json", token)
        header = quote(f"Authorization: Bearer {CANARIES['explained']}")
        asked = quote(f"{path}?token={CANARIES['explained']}")
        for what in (asked, quote(day.where("file", day.files[5])), quote(f"/raw/keys/own?s={CANARIES['explained']}")):
            day.admin(f"/admin/cache/explain?path={what}&header={header}", token)
        day.admin("/admin/cache/refresh", token, {"project": day.files[5].project})
        day.admin("/admin/cache/remove", token, {"pattern": "nothing-like-it", "token": CANARIES["admin_query"]})
        day.admin("/admin/cache/remove", token, {"pattern": "*", "dry_run": True})
    day.ask("/metrics", "Accept: application/openmetrics-text; version=1.0.0")


def commands(day: Day) -> None:
    """What is told at the command line."""
    configuration = day.proxy.directory / "config.toml"
    at_server = ("--url", day.proxy.url, "--token-file", str(day.proxy.directory / "admin_token"))
    check = ("check", "--config", str(configuration))
    for words in (check, ("cache", "info", *at_server), ("cache", "list", *at_server)):
        done = subprocess.run(
            [sys.executable, "-m", "proxy", *words],
            cwd=ROOT, env=clean_environment(day.proxy.environment), capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        day.shown.append((" ".join(words[:2]), done.stdout + done.stderr))


def rows(cache: Path) -> Iterator[tuple[str, bytes]]:
    """Each row of the databases: the first word of its key, and all that it holds, its file's bytes too."""
    for room in ("responses", "wheels", "mounts"):
        with closing(sqlite3.connect(cache / room / "cache.db")) as opened:
            for key, value, name, tag in opened.execute("SELECT key, value, filename, tag FROM Cache"):
                body = (cache / room / name).read_bytes() if name else b""
                data = value if isinstance(value, bytes) else str(value).encode()
                yield str(key).partition("|")[0], f"{key} {tag} {name}".encode() + undone(data) + undone(body)


def on_disk(cache: Path) -> Iterator[str]:
    """What of them lies in the cache."""
    for path in sorted(each for each in cache.rglob("*") if each.is_file()):
        yield from (f"{name} in {path.relative_to(cache)}" for name in seen_in(path.read_bytes(), LISTED))
    for kind, content in rows(cache):
        known = LISTED if kind in LISTING else frozenset[str]()
        yield from (f"{name} in a row: {kind}" for name in seen_in(content, known))


def fired(day: Day) -> set[str]:
    """Those that were on the wire: an operator's and a mount's at the upstream; the others were sent, or the upstream
    would not have been asked."""
    asked = b"".join(each.raw + each.body for upstream in (day.upstream, day.netrc) for each in upstream.log)
    reached = seen_in(asked)
    statuses = dict[str, set[str]]()
    for place, _ in day.shown:
        path, _, status = place.rpartition(" ")
        statuses.setdefault(path, set()).add(status)
    if "(200)" in statuses["GET /admin/cache/dir"] and "(403)" in statuses["GET /admin/cache/dir"]:
        reached |= {"admin_token", "read_token", "wrong_token"}
    return reached


def proxy_of(directory: Path, upstream: Upstream, netrc: Upstream) -> ProxyServer:
    """With every way to give it a secret."""
    directory.mkdir()
    for name in ("password_file", "token_file", "admin_token"):
        (directory / name).write_text(f"{CANARIES[name]}\n")
        (directory / name).chmod(0o600)
    (directory / "netrc").write_text(f"machine 127.0.0.2 login someone password {CANARIES['netrc']}\n")
    (directory / "netrc").chmod(0o600)
    return ProxyServer(
        directory,
        {
            "file": {"url": upstream.url, "username": "u", "password_file": str(directory / "password_file")},
            "variable": {"url": upstream.url, "username": "u"},
            "token": {"url": upstream.url, "token_file": str(directory / "token_file")},
            "bearer": upstream.url,
            "netrc": netrc.url,
        },
        mounts={
            "keys": {"url": f"{upstream.origin}/tree/", "pass_credentials": True},
            "plain": f"{upstream.origin}/tree/",
        },
        settings={
            "admin": {"token_file": str(directory / "admin_token")},
            "freshness": {"min_reload_interval": "0s", "negative_ttl": "0s"},
            "limits": {"breaker_failures": 1_000_000, "rest_max": "0s"},
        },
        environment={
            "NETRC": str(directory / "netrc"),
            "PIPCACHEPROXY_INDEX_VARIABLE_PASSWORD": CANARIES["password_variable"],
            "PIPCACHEPROXY_INDEX_BEARER_TOKEN": CANARIES["token_variable"],
            "PIPCACHEPROXY_ADMIN__READ_TOKEN": CANARIES["read_token"],
        },
        fresh=True,
    )


def measure(size: Size, directory: Path) -> Measured:
    """The same day twice, with logs for people and for machines; then everything is searched that was shown or kept."""
    found = list[str]()
    looked = 0
    for turn, logs in enumerate(("text", "json")):
        files = [wheel(f"canary{turn}{each}") for each in range(8)]
        with ExitStack() as running:
            upstream = running.enter_context(Upstream(*files))
            # netrc knows hosts only: the one index that it speaks for has an address of its own.
            netrc = running.enter_context(Upstream(*files, address="127.0.0.2"))
            for path, control in {"public": "public, max-age=60", "own": "max-age=60", "broken": "no-store"}.items():
                status = 500 if path == "broken" else 200
                told = Answer(status=status, body=b"x" * 9, headers={"Cache-Control": control})
                upstream.script(f"/tree/{path}", told)
            proxy = proxy_of(directory / logs, upstream, netrc)
            proxy.settings["log"] = {"format": logs}
            day = Day(running.enter_context(proxy), upstream, netrc, files)
            for part in (of_operators, of_upstreams, of_clients, of_admins, commands):
                part(day)
                day.look_around()
            missing = needed() - fired(day)
            assert not missing, f"these were never used: {missing}"
            assert proxy.terminate() == 0
            day.shown.append(("the log", proxy.stderr.encode()))
        looked += len(day.shown)
        found += [f"{name} in {place}" for place, content in day.shown for name in seen_in(content)]
        found += on_disk(proxy.cache)
    seen = sorted(set(found))
    figure = f"{len(CANARIES)} canaries, {looked} answers, logs and argument lists, all of the cache: {len(seen)} seen"
    return Measured(figure, (f"{len(seen)} places: {'; '.join(seen[:8])}",) if seen else ())


def needed() -> set[str]:
    """Those that have to have reached somebody."""
    names = ("password_file", "password_variable", "token_file", "token_variable", "netrc", "admin_token", "read_token")
    mounts = ("mount_bearer", "mount_cookie", "mount_query", "mount_body")
    return {*names, *mounts, "wrong_token", "link_query", "redirect_query"}
