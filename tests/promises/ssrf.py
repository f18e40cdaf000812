"""What G10 tries, inside a network namespace: ``python -m tests.promises.ssrf CASES DIRECTORY``; the last line that it
prints is JSON.

An index on a global address means harm. Everything that it can say (pages, redirects, names), and all that clients can,
leads to addresses where canaries listen. The same is tried twice: at the proxy, and at one without its guard.
"""

from __future__ import annotations

import html
import json
import random
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import cycle
from pathlib import Path

from tests.harness.behaviours import Answer, redirect
from tests.harness.canaries import Canaries, NameServer
from tests.harness.fetch import fetch
from tests.harness.index import JSON_V1
from tests.harness.origin import listen
from tests.harness.scrape import parsed
from tests.harness.server import ProxyServer
from tests.harness.upstream import Upstream
from tests.harness.waiting import eventually

HOME, GOOD, DEAD = "93.184.215.14", "93.184.215.15", "93.184.215.16"
PORT = 8999
# Where even an index with private = true leads nobody, and where it may.
NEVER_V4 = ("127.0.0.1", "127.8.9.10", "169.254.169.254")
PRIVATE_V4 = ("10.9.8.7", "172.16.5.4", "192.168.7.7", "100.64.3.2", "198.18.5.5", "192.0.2.5")
NEVER_V6 = ("::1", "4000::7")
PRIVATE_V6 = ("fc00::7", "fd12:3456::7", "fec0::7", "2001:db8::7", "3fff::7", "100::7")
WRAPPED = ("127.0.0.1", "169.254.169.254", "10.9.8.7")


def wrappings(four: str) -> tuple[str, ...]:
    """Addresses of this machine's own that lead to an IPv4 address elsewhere: compatible, translated, NAT64 (well-known
    and local), 6to4, Teredo."""
    low = int(IPv4Address(four))
    places = (low, 0xFFFF << 48 | low, 0x64FF9B << 96 | low, 0x64FF9B0001 << 80 | low, 0x2002 << 112 | low << 80 | 1)
    teredo = 0x20010000 << 96 | int(IPv4Address("1.1.1.1")) << 64 | (low ^ 0xFFFFFFFF)
    return tuple(str(IPv6Address(each)) for each in (*places, teredo))


FORBIDDEN = (*NEVER_V4, *NEVER_V6, *(each for four in WRAPPED[:2] for each in wrappings(four)))
INNER = (*PRIVATE_V4, *PRIVATE_V6, *wrappings(WRAPPED[2]))
CANARIES = (*FORBIDDEN, *INNER)
OWN_ADDRESSES = tuple(
    f"{each}/{32 if '.' in each else 128}" for each in (HOME, GOOD, *CANARIES) if each not in ("::1", *NEVER_V4[:2])
)


def spellings(address: str) -> Iterator[str]:
    """The authority of a URL that some parser or resolver takes for this address."""
    if ":" in address:
        whole = IPv6Address(address)
        tail = IPv4Address(int(whole) & 0xFFFFFFFF)
        yield from (f"[{address}]", f"[{whole.exploded.upper()}]", f"[{whole.exploded[:30]}{tail}]")
        yield from (f"[{address}%25lo]", f"[{address}%1]")
        return
    number = int(IPv4Address(address))
    a, b, c, d = IPv4Address(address).packed
    yield from (address, f"{address}.", f"{number}", f"{number:#x}", f"0X{number:X}.", f"{number:#o}".replace("o", ""))
    yield from (f"0{a:o}.0{b:o}.0{c:o}.0{d:o}", f"{a:#x}.{b:#x}.{c:#x}.{d:#x}", f"{a}.{b}.{c << 8 | d}")
    yield from (f"{a}.{number & 0xFFFFFF}", f"{a:03}.{b:03}.{c:03}.{d:03}", f"{number + 2**32}")
    yield from (f"%3{str(a)[0]}{str(a)[1:]}.{b}.{c}.{d}", "".join(chr(ord(each) + 0xFEE0) for each in address))
    yield from (address.replace(".", "\N{IDEOGRAPHIC FULL STOP}"), f"[{address}]", f"[::ffff:{address}]")
    yield from (f"[::FFFF:{number >> 16:X}:{number & 0xFFFF:x}]", f"[0:0:0:0:0:ffff:{address}]")
    yield from (f"[::ffff:{address}%lo]", f"user@{address}", f"index.example.com@{address}")
    yield from (f"index.example.com:80@{address}", f"index.example.com%40{address}", f"{address}#@index.example.com")
    yield from (f"{address}\\@index.example.com", f"{address}%00.example.com", f"\t{address}", f"{address}\r\n")


def authorities() -> list[tuple[str, str]]:
    """All canaries in all their spellings, by name too: address and authority, in an order that is always the same."""
    found = [(each, spelled) for each in CANARIES for spelled in spellings(each)]
    for number, each in enumerate(CANARIES):
        found += [(each, f"at-{number}.example.com"), (each, f"AT-{number}.Example.COM.")]
        found += [(each, f"both-{number}.example.com")]
    found += [("127.0.0.1", name) for name in ("localhost", "LOCALHOST.", "0.0.0.0", "0", "[::]", "0x0", "127.1")]
    random.Random(10).shuffle(found)
    return found


@dataclass(frozen=True, slots=True)
class Case:
    """``url`` leads to the canary at ``address``; ``project`` and ``name`` are nobody else's."""

    number: int
    address: str
    url: str

    @property
    def project(self) -> str:
        return f"p{self.number}"

    @property
    def name(self) -> str:
        return f"{self.project}-1.0-py3-none-any.whl"

    @property
    def location(self) -> str:
        """The URL in UTF-8, a character for each octet, as raw fields are sent."""
        return self.url.encode().decode("latin-1")

    @property
    def index(self) -> str:
        """Every other one where that must make no difference is for an index with private = true."""
        return "inner" if self.address in FORBIDDEN and self.number % 2 else "test"


@dataclass(frozen=True, slots=True)
class Ground:
    """A running proxy, the upstream that means harm, another one on a global address, and the names."""

    proxy: ProxyServer
    home: Upstream
    far: Upstream
    names: NameServer

    def get(self, path: str, method: str = "GET", **headers: str) -> int:
        return fetch(f"{self.proxy.url}{path}", headers, method).status

    def say(self, *requests: str) -> None:
        """Raw requests, a connection each."""
        for each in requests:
            with socket.create_connection((self.proxy.host, self.proxy.port), timeout=20) as connection:
                connection.sendall(f"{each}\r\nConnection: close\r\n\r\n".encode("utf-8", "surrogateescape"))
                listen(connection, "GET")

    def page(self, case: Case, file: Mapping[str, object], index: str | None = None) -> list[str]:
        """The home's page lists that file; where the proxy's leads, and where a client may think that it does."""
        document = {"meta": {"api-version": "1.0"}, "name": case.project, "files": [{"filename": case.name, **file}]}
        return self.shown(case, JSON_V1, json.dumps(document), index)

    def shown(self, case: Case, media_type: str, text: str, index: str | None = None) -> list[str]:
        """The same for any page."""
        fields = {"Content-Type": media_type}
        self.home.script(f"/simple/{case.project}/", Answer(status=200, body=text.encode(), headers=fields))
        index = index or case.index
        told = fetch(f"{self.proxy.url}/index/{index}/simple/{case.project}/", {"Accept": JSON_V1})
        links = [each["url"] for each in json.loads(told.body)["files"]] if told.status == 200 else []
        return [f"/{each.lstrip('./')}" for each in links if each.startswith("../")]

    def hosted(self, case: Case, **listed: object) -> str:
        """A file on the home itself; its path there."""
        path = f"/packages/{case.name}"
        self.page(case, {"url": f"{self.home.origin}{path}", "hashes": {}, **listed})
        return path

    def at_proxy(self, case: Case, suffix: str = "") -> str:
        """The path of that file here."""
        return f"/files/{case.index}/{self.home.origin.partition('://')[2]}/packages/{case.name}{suffix}"


Way = Callable[[Ground, Case], None]


def asked(ground: Ground, case: Case) -> None:
    """A client asks for what no page names."""
    rest = case.location.partition("://")[2]
    lines = [f"GET /files/{case.index}/{rest}", f"GET /files/{case.index}/{rest}.metadata", f"HEAD /files/test/{rest}"]
    ground.say(*(f"{each} HTTP/1.1\r\nHost: x" for each in lines))


def targeted(ground: Ground, case: Case) -> None:
    """A client takes us for a forward proxy, or names the place in fields that some believe."""
    authority = case.location.partition("://")[2].partition("/")[0]
    fields = ("Host", "X-Forwarded-Host", "X-Original-URL", "X-Rewrite-URL", "Forwarded", "Referer", "Origin")
    said = "\r\n".join(f"{name}: {authority}" for name in fields)
    page = f"/index/{case.index}/simple/t{case.number}/"
    ground.say(
        f"GET {case.location} HTTP/1.1\r\nHost: {authority}",
        f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}",
        f"GET {page} HTTP/1.1\r\n{said}",
        f"GET {page}?url={case.location} HTTP/1.1\r\nHost: x",
        f"GET //{authority}/x HTTP/1.1\r\nHost: x",
        f"GET /raw/tree/{authority}@{authority}/x HTTP/1.1\r\nHost: x",
    )


def linked(ground: Ground, case: Case) -> None:
    """A JSON page lists a file there."""
    for path in ground.page(case, {"url": case.url, "hashes": {}}):
        ground.get(path)
        ground.get(path, Range="bytes=0-1")
    asked(ground, case)


def anchored(ground: Ground, case: Case) -> None:
    """An HTML page does; its ``base`` says where, every other time."""
    base, href = ("", case.url) if case.number % 2 else (case.url.rpartition("/")[0] + "/", case.name)
    told = f'<!DOCTYPE html><base href="{html.escape(base)}">' if base else "<!DOCTYPE html>"
    for path in ground.shown(case, "text/html; charset=utf-8", f'{told}<a href="{html.escape(href)}">{case.name}</a>'):
        ground.get(path)
    asked(ground, case)


def redirected(ground: Ground, case: Case) -> None:
    """A file of the index's own host leads there."""
    status = (301, 302, 303, 307, 308)[case.number % 5]
    ground.home.script(ground.hosted(case), redirect(case.location, status))
    ground.get(ground.at_proxy(case))


def chained(ground: Ground, case: Case) -> None:
    """The same, by way of an honest host."""
    hop = f"/hop/{case.number}"
    ground.far.script(hop, redirect(case.location))
    port = ground.far.origin.rpartition(":")[2]
    ground.home.script(ground.hosted(case), redirect(f"http://good.example.com:{port}{hop}"))
    ground.get(ground.at_proxy(case))


def headed(ground: Ground, case: Case) -> None:
    """A HEAD is passed on where the page does not say enough."""
    ground.home.script(ground.hosted(case), redirect(case.location))
    ground.get(ground.at_proxy(case), "HEAD")


def ranged(ground: Ground, case: Case) -> None:
    """So is a range of a large file."""
    ground.home.script(ground.hosted(case, size=10_000_000, hashes={"sha256": "0" * 64}), redirect(case.location))
    ground.get(ground.at_proxy(case), Range="bytes=5-9")


def described(ground: Ground, case: Case) -> None:
    """The metadata of a file leads there."""
    path = ground.hosted(case, **{"core-metadata": True})
    ground.home.script(f"{path}.metadata", redirect(case.location))
    ground.home.script(path, redirect(case.location))
    ground.get(ground.at_proxy(case, ".metadata"))


def paged(ground: Ground, case: Case) -> None:
    """A project's page leads there."""
    ground.home.script(f"/simple/{case.project}/", redirect(case.location))
    ground.get(f"/index/{case.index}/simple/{case.project}/")


def documented(ground: Ground, case: Case) -> None:
    """The JSON API does."""
    ground.home.script(f"/pypi/{case.project}/json", redirect(case.location))
    ground.get(f"/index/{case.index}/pypi/{case.project}/json")


def enumerated(ground: Ground, case: Case) -> None:
    """The list of all projects does."""
    ground.home.script("/simple/", redirect(case.location))
    ground.get(f"/index/{case.index}/simple/")


def mounted(ground: Ground, case: Case) -> None:
    """A mount does: that is passed on, and never followed."""
    ground.home.script(f"/tree/{case.number}", redirect(case.location))
    ground.get(f"/raw/tree/{case.number}")


def rebound(ground: Ground, case: Case) -> None:
    """A name is honest at the first look-up, and at the next it is there."""
    port = ground.far.origin.rpartition(":")[2]
    name = f"flip-{ground.proxy.port}-{case.number}.example.com"
    ground.names.names[name] = (GOOD, case.address)
    ground.far.script(f"/{case.name}", Answer(status=200, body=b"honest", framing="chunked"))
    # Every index has its own connections, and looks names up for itself.
    for index in ("test", "second"):
        for path in ground.page(case, {"url": f"http://{name}:{port}/{case.name}", "hashes": {}}, index):
            status = ground.get(path)
            assert (index, status) != ("test", 502), "the honest answer was not got"
    assert ground.names.looked_up(name) >= 2, "the name was not looked up again"


WAYS: tuple[Way, ...] = (
    linked, redirected, anchored, paged, chained, rebound, headed, ranged,
    described, documented, enumerated, asked, targeted, mounted,
)  # fmt: skip
LEADING = frozenset(WAYS) - {asked, targeted, mounted}
"""Those that lead somewhere when nobody guards the sockets."""


def cases(number: int) -> list[Case]:
    """So many, with every spelling as often as any other."""
    found = []
    ports = cycle((f":{PORT}", "", f":{PORT}"))
    for each, (address, authority) in zip(range(number), cycle(authorities()), strict=False):
        at = authority if "#" in authority or "\\" in authority else f"{authority}{next(ports)}"
        found.append(Case(each, address, f"http://{at}/p{each}-1.0-py3-none-any.whl"))
    return found


def tried(ground: Ground, canaries: Canaries, chosen: Sequence[Case]) -> dict[str, int]:
    """How many of them led to a canary, by their ways."""
    led = Counter[str]()
    for case, way in zip(chosen, cycle(WAYS), strict=False):
        before = canaries.counts.total()
        way(ground, case)
        led[way.__name__] += canaries.counts.total() > before

    def idle() -> bool:
        told = fetch(f"{ground.proxy.url}/metrics")
        return parsed(told.body.decode(), told.headers["content-type"]).sum("pipcacheproxy_fetches") == 0

    eventually(idle, "nothing is under way")
    return dict(led)


def honest(ground: Ground, canaries: Canaries) -> None:
    """What may be asked is got: a file of a global host, and with private = true one inside."""
    good = Case(1_000_000, GOOD, "")
    ground.far.script(f"/{good.name}", Answer(status=200, body=b"honest"))
    port = ground.far.origin.rpartition(":")[2]
    (path,) = ground.page(good, {"url": f"http://good.example.com:{port}/{good.name}", "hashes": {}}, "test")
    assert ground.get(path) == 200, "the global host was not reached"
    inside = Case(1_000_001, PRIVATE_V4[0], "")
    before = canaries.counts
    for path in ground.page(inside, {"url": f"http://{inside.address}:{PORT}/{inside.name}", "hashes": {}}, "inner"):
        assert ground.get(path) == 200, "private = true did not lead inside"
    assert canaries.counts - before == Counter({inside.address: 1})


def measured(number: int, directory: Path) -> dict[str, object]:
    """Both proxies, and what each was led to. Raises AssertionError where nothing is shown."""
    names: dict[str, Sequence[str]] = {"index.example.com": (HOME,), "good.example.com": (GOOD,)}
    for at, each in enumerate(CANARIES):
        names |= {f"at-{at}.example.com": (each,), f"both-{at}.example.com": (f"{DEAD} {each}",)}
    with ExitStack() as running:
        answering = running.enter_context(NameServer(names))
        home, far = (running.enter_context(Upstream(address=each)) for each in (HOME, GOOD))
        ports = (PORT, 80, int(far.origin.rpartition(":")[2]))
        canaries = running.enter_context(Canaries(CANARIES, ports))
        for each in CANARIES:
            version = socket.AF_INET6 if ip_address(each).version == 6 else socket.AF_INET
            with socket.socket(version) as probe:
                probe.connect((each, PORT))
        eventually(lambda: set(canaries.counts) == set(CANARIES), "every canary can be reached")
        chosen, led = cases(number), []
        for guarded in (True, False):
            there = f"http://index.example.com:{home.origin.rpartition(':')[2]}"
            indexes: dict[str, dict[str, str | bool]] = {
                "test": {"url": f"{there}/simple/"},
                "second": {"url": f"{there}/simple/"},
                "inner": {"url": f"{there}/simple/", "private": True},
            }
            proxy = ProxyServer(
                directory / ("guarded" if guarded else "unguarded"),
                indexes,
                mounts={"tree": f"{there}/tree/"},
                settings={
                    "freshness": {"default_ttl": "0s", "min_reload_interval": "0s"},
                    "limits": {"range_fill_max": "1KiB", "breaker_failures": 1_000_000, "rest_max": "0s"},
                },
            )
            proxy.prefix = () if guarded else (sys.executable, "-m", "tests.harness.unguarded")
            with proxy:
                ground = Ground(proxy, home, far, answering)
                honest(ground, canaries)
                led.append(tried(ground, canaries, chosen))
    silent = [way.__name__ for way in LEADING if not led[1].get(way.__name__)]
    assert not silent, f"even without the guard nobody is led anywhere by: {silent}"
    return {"cases": number, "canaries": len(CANARIES), "guarded": led[0], "unguarded": led[1]}


if __name__ == "__main__":
    print(json.dumps(measured(int(sys.argv[1]), Path(sys.argv[2]))))
