"""The landing page, its text for terminals and its two files: asked for over HTTP, used by pip and uv, and looked at in
a real browser."""

from __future__ import annotations

import base64
import configparser
import hashlib
import html
import json
import re
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import uv

from proxy import __version__
from proxy.web.clients import AUTHORITY, CI, CLIENTS, IMAGE, Address
from tests.conftest import missing
from tests.e2e.test_readme import FOREIGN, LOOPBACK, PLAIN, SECURE, WHEEL, warmed
from tests.harness.browser import NAME, Browser, Page, pin, program
from tests.harness.certificates import Pair, pair
from tests.harness.clients import Pip
from tests.harness.desk import Desk
from tests.harness.fetch import Fetched, fetch
from tests.harness.index import JSON_V1
from tests.harness.lan import Lan
from tests.harness.server import ProxyServer
from tests.harness.world import World, world

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
HTML = {"Accept": BROWSER}
NOWHERE = "http://127.0.0.1:9/sub-rosa/simple/"


@dataclass(frozen=True, slots=True)
class Here:
    """``plain`` believes nobody, ``fronted`` believes 127.0.0.1 and speaks https, ``public`` has a public_url."""

    plain: World
    fronted: World
    public: World
    pair: Pair

    def ask(self, world: World, path: str, headers: dict[str, str], method: str = "GET") -> Fetched:
        """An answer of one of them."""
        return fetch(f"{world.proxy.url}{path}", headers, method, trust=self.pair.trust())


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    """All three, for every test."""
    directory = tmp_path_factory.mktemp("landing")
    made = pair(directory / "pem", "127.0.0.1", NAME)
    fronted = {"trusted_proxies": ["127.0.0.1"], **made.settings}
    public = {"public_url": "https://example.com/pypi/", "trusted_proxies": ["127.0.0.1"]}
    with (
        world(directory / "plain", indexes=lambda _: {"other": NOWHERE, "third": NOWHERE}) as one,
        world(directory / "fronted", {"server": fronted}) as two,
        world(directory / "public", {"server": public}) as three,
    ):
        yield Here(one, two, three, made)


# --- over HTTP


def text_of(body: bytes) -> str:
    """An answer without the marks inside its lines of code."""
    return html.unescape(re.sub(r"</?(?:span|wbr)>", "", body.decode()))


@pytest.mark.parametrize(
    ("which", "headers", "root"),
    [
        ("plain", {}, None),
        ("plain", {"Host": "localhost:3143"}, "http://localhost:3143"),
        ("plain", {"Host": "Proxy.Example.com:3143"}, "http://proxy.example.com:3143"),
        ("plain", {"Host": "[2001:db8::1]:3143"}, "http://[2001:db8::1]:3143"),
        ("plain", {"X-Forwarded-Host": "evil.example.com", "X-Forwarded-Proto": "https"}, None),
        ("fronted", {}, None),
        ("fronted", {"Host": "proxy.example.com"}, "https://proxy.example.com"),
        ("fronted", {"X-Forwarded-Host": "example.com", "X-Forwarded-Proto": "http"}, "http://example.com"),
        ("public", {"Host": "proxy.example.com"}, "https://example.com/pypi"),
        ("public", {"X-Forwarded-Host": "example.org"}, "https://example.com/pypi"),
    ],
)
def test_the_address_is_the_one_this_client_sees(
    which: str, headers: dict[str, str], root: str | None, here: Here
) -> None:
    """By Host, TLS, a front proxy that is trusted, and public_url: in the page, in the text, and in both files."""
    one: World = getattr(here, which)
    address = Address(root or one.proxy.url)
    for accept, form in ((BROWSER, "text/html; charset=utf-8"), ("*/*", "text/plain; charset=utf-8")):
        got = here.ask(one, "/", {"Accept": accept, **headers})
        assert (got.status, got.headers["content-type"], got.headers["vary"]) == (200, form, "Accept")
        text = text_of(got.body)
        assert {each.rstrip("/") for each in re.findall(r"https?://[^\s<>\"'&/]+(?:/pypi)?", text)} - {
            "http://www.w3.org"
        } == {address.root}
        for recipe in [*(client.recipe for client in CLIENTS), IMAGE, CI]:
            assert all(line in text for line in recipe.lines(address))
        assert ("PIP_TRUSTED_HOST" in text, AUTHORITY in text) == (address.kind == "plain", address.kind == "secure")
    parsed = configparser.RawConfigParser()
    parsed.read_string(here.ask(one, "/pip.conf", headers).body.decode())
    trusted = {"trusted-host": address.host} if address.kind == "plain" else {}
    assert dict(parsed["global"]) == {"index-url": address.index} | trusted
    (index,) = tomllib.loads(here.ask(one, "/uv.toml", headers).body.decode())["index"]
    assert (index["url"], index["default"]) == (address.index, True)


def test_all_indexes_are_named_and_no_upstream_is(here: Here) -> None:
    """Where each is to be had here; where it comes from is nobody's business."""
    url = here.plain.proxy.url
    for headers in (HTML, {}):
        text = text_of(here.plain.get("/", headers).body)
        assert all(f"{url}/index/{name}/simple" in text for name in ("other", "third"))
        assert ("sub-rosa" in text, here.plain.upstream.origin in text, __version__ in text) == (False, False, True)
        assert "/index/" not in here.ask(here.fronted, "/", headers).body.decode()


@pytest.mark.parametrize("accept", [None, "", "*/*", "application/json", JSON_V1, "text/html;q=0"])
def test_programs_get_text(accept: str | None, here: Here) -> None:
    """Whoever does not name text/html, or does not want it."""
    got = here.plain.get("/", {} if accept is None else {"Accept": accept})
    assert (got.status, got.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    assert b"<" not in got.body


@pytest.mark.parametrize("path", ["/", "/pip.conf", "/uv.toml", "/?from=mail", "/pip.conf?x"])
def test_head_and_validators(path: str, here: Here) -> None:
    """HEAD is GET without a body, and who has the page is not sent it again."""
    got, head = here.plain.get(path, HTML), here.plain.get(path, HTML, "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert {**head.headers, "date": ""} == {**got.headers, "date": ""}
    assert got.headers["content-length"] == str(len(got.body))
    assert got.headers["cache-control"] == "no-cache"
    again = here.plain.get(path, {**HTML, "If-None-Match": f'"x", {got.headers["etag"]}'})
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", got.headers["etag"])
    assert here.plain.get(path, {**HTML, "If-None-Match": '"x"'}).status == 200
    assert here.plain.get(path, HTML, "POST").status == 405


def test_the_files_are_downloads(here: Here) -> None:
    """With a name and a type, and never as a page."""
    for name, form in (("pip.conf", "text/plain; charset=utf-8"), ("uv.toml", "application/toml")):
        got = here.plain.get(f"/{name}", HTML)
        assert got.headers["content-type"] == form
        assert got.headers["content-disposition"] == f'attachment; filename="{name}"'
        assert got.headers["x-content-type-options"] == "nosniff"


def test_the_walls_of_the_page(here: Here) -> None:
    """Exactly this style and this script, nothing from anywhere, no frame around it, no trace of it elsewhere."""
    got = here.plain.get("/", HTML)
    page = got.body.decode()
    hashes = []
    for name in ("style", "script"):
        (inside,) = re.findall(rf"<{name}>(.*?)</{name}>", page, re.DOTALL)
        hashes.append(base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode())
    assert got.headers["content-security-policy"] == (
        f"default-src 'none'; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; img-src data:; "
        "form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
    )
    assert (got.headers["x-content-type-options"], got.headers["referrer-policy"]) == ("nosniff", "no-referrer")
    assert not re.search(r"\s(?:on\w+|style)=|url\(|@import", page)
    # Pages of the index keep the stricter wall.
    simple = here.plain.get("/simple/", HTML)
    assert simple.headers["content-security-policy"] == "default-src 'none'"


@pytest.mark.parametrize(
    "host", ['"><script>alert(1)</script>', "a'onload=alert(1)", "{{7*7}}", "a b", "user@example.com", "&lt;"]
)
@pytest.mark.parametrize("accept", [BROWSER, "*/*"])
def test_a_hostile_host_is_not_repeated(host: str, accept: str, here: Here) -> None:
    """What could not stand in a URL is answered with the address the client has just reached."""
    heard = here.plain.say(f"GET / HTTP/1.1\r\nHost: {host}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n")
    assert heard.status in (200, 400)
    assert host.encode() not in heard.body
    assert b"alert" not in heard.body
    assert b"49" not in re.sub(rb"[0-9]{3,}", b"", heard.body)
    if heard.status == 200:
        assert here.plain.proxy.index_url in text_of(heard.body)


def test_a_client_of_http_1_0(here: Here) -> None:
    """It names no host: the address it has reached."""
    heard = here.plain.say("GET / HTTP/1.0\r\n\r\n")
    assert heard.status == 200
    assert f"\n  {here.plain.proxy.index_url}\n".encode() in heard.body


def test_the_engine_is_loaded_when_somebody_looks(tmp_path: Path, here: Here) -> None:
    """A server that only installers ask does not even map its code; text for terminals does not need it."""
    with ProxyServer(tmp_path, {"test": NOWHERE}) as proxy:
        for path in ("/", "/pip.conf", "/uv.toml"):
            assert fetch(f"{proxy.url}{path}").status == 200
        maps = Path(f"/proc/{proxy.process.pid}/maps")
        if not maps.exists():
            pytest.skip("no /proc here")
        # Its companion for escaping is a library in machine code, so the system shows whether it is loaded.
        assert "markupsafe" not in maps.read_text()
        assert fetch(f"{proxy.url}/", HTML).status == 200
        assert "markupsafe" in maps.read_text()


# --- pip and uv


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lan, ProxyServer, ProxyServer, Path]]:
    """A LAN with a proxy in plain http at port 3143 and one in https at 443, and the authority of that one."""
    if (reason := Lan.missing()) is not None:
        missing(reason)
    directory = tmp_path_factory.mktemp("network")
    made = pair(directory / "tls", NAME)
    with (
        Lan(directory) as lan,
        warmed(directory / "plain", {"port": 3143}, lan) as plain,
        warmed(directory / "secure", {"port": 443, **made.settings}, lan) as secure,
    ):
        yield lan, plain, secure, made.authority


@pytest.mark.parametrize("root", [LOOPBACK, PLAIN, SECURE])
@pytest.mark.parametrize("client", ["pip", "uv"])
def test_what_is_downloaded_works(
    client: str,
    root: str,
    network: tuple[Lan, ProxyServer, ProxyServer, Path],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """The file as it comes, named in the client's variable; over https with the authority filled in as it says."""
    lan, plain, secure, authority = network
    desk = Desk(tmp_path)
    desk.prefix = lan.prefix(desk.project)
    for name in FOREIGN:
        desk.environment.pop(name, None)
    desk.make_venv()
    name = {"pip": "pip.conf", "uv": "uv.toml"}[client]
    desk.run("curl", "--silent", "--show-error", "--fail", "--remote-name", "--cacert", authority, f"{root}/{name}")
    if root == SECURE:
        comment = {"pip": "# cert = ", "uv": "# SSL_CERT_FILE="}[client]
        assert f"{comment}{AUTHORITY}\n" in desk.read(name)
        if client == "pip":
            desk.write(name, desk.read(name).replace(f"# cert = {AUTHORITY}", f"cert = {authority}"))
        else:
            desk.environment["SSL_CERT_FILE"] = str(authority)
    for proxy in (plain, secure):
        proxy.forget()
    if client == "pip":
        pip: Pip = request.getfixturevalue("new_pip")
        desk.pip(pip, "install", "delta", PIP_CONFIG_FILE=str(desk.project / name))
    else:
        del desk.environment["UV_NO_CONFIG"]
        desk.run(uv.find_uv_bin(), "pip", "install", "delta", UV_CONFIG_FILE=str(desk.project / name))
    assert desk.versions(["delta"]) == {"delta": "1.0"}
    used = secure if root == SECURE else plain
    used.wait_for_log(lambda _: any(str(each["path"]).endswith(WHEEL) for each in used.requests("/files/")))


# --- in a browser


@pytest.fixture(scope="module")
def running(here: Here) -> Iterator[Browser]:
    """One browser for all of these tests, near the root: it has a local socket in its directory."""
    if program() is None:
        missing("chromium is missing")
    with (
        tempfile.TemporaryDirectory(prefix="near", dir="/tmp") as near,
        Browser(Path(near), [pin(here.pair.certificate)]) as running,
    ):
        yield running


@pytest.fixture
def browser(running: Browser) -> Iterator[Browser]:
    """The same; what a test opened is closed after it."""
    yield running
    running.close_pages()


@pytest.fixture(params=["loopback", "plain", "secure"])
def url(request: pytest.FixtureRequest, here: Here) -> str:
    """The page as each kind of client reaches it; only "plain" is no secure context."""
    ports = here.plain.proxy.port, here.fronted.proxy.port
    return {
        "loopback": f"http://127.0.0.1:{ports[0]}/",
        "plain": f"http://{NAME}:{ports[0]}/",
        "secure": f"https://{NAME}:{ports[1]}/",
    }[request.param]


def clean(page: Page, url: str) -> bool:
    """Whether nothing was asked for but the page, and nobody complained."""
    asked = [each for each in page.requested if not each.startswith("data:")]
    assert (asked, page.complaints) == ([url], [])
    return True


def shown(page: Page) -> list[str]:
    """What each block of code says."""
    blocks: list[str] = page.evaluate("[...document.querySelectorAll('pre')].map(each => each.innerText)")
    return blocks


@pytest.mark.parametrize("scripts", [True, False])
def test_it_renders(scripts: bool, url: str, browser: Browser, here: Here) -> None:
    """With scripts and without: the lines are there, as text that can be selected; buttons only where they work."""
    here.plain.proxy.forget()
    page = browser.open(url, scripts=scripts)
    address = Address(url.rstrip("/"))
    assert address.index in shown(page)
    for client in CLIENTS:
        assert "\n".join(client.recipe.lines(address)) in shown(page)
    buttons = page.evaluate("[...document.querySelectorAll('button')].map(each => each.checkVisibility())")
    assert len(buttons) > 8
    # Those in what is folded are not shown either.
    folded = page.evaluate("document.querySelectorAll('details:not([open]) button').length")
    assert buttons.count(True) == (len(buttons) - folded if scripts else 0)
    assert page.evaluate("getComputedStyle(document.querySelector('h1')).fontWeight") == "650"
    assert page.evaluate("isSecureContext") == (NAME not in url or url.startswith("https"))
    assert clean(page, url)
    assert {each["path"] for each in here.plain.proxy.requests()} <= {"/"}


def test_a_breach_would_be_noticed(browser: Browser, here: Here) -> None:
    """What the tests here look for in vain is seen where it is: a style, a script and a request that must not be."""
    for breach in ("<b style='color: red'>x</b>", "<b onclick='1'>x</b>", "<img src='/healthz'>"):
        page = browser.open(f"{here.plain.proxy.url}/")
        page.evaluate(f"document.body.insertAdjacentHTML('beforeend', {json.dumps(breach)})")
        page.evaluate("document.querySelector('b')?.click()")
        assert "contentSecurityPolicyIssueDetails" in json.dumps(page.complaints)
    page.evaluate("console.error('x')")
    assert page.told("Runtime.consoleAPICalled")


def test_copying(url: str, browser: Browser, here: Here) -> None:
    """One click on each: exactly its lines are in the clipboard, and it says so, also to those who listen."""
    page = browser.open(url)
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    blocks = shown(page)
    for number, lines in enumerate(blocks):
        page.evaluate(f"document.querySelectorAll('button')[{number}].id = 'this-{number}'")
        page.click(f"#this-{number}")
        # Both in one look: they are taken back after a while.
        both = f"[...document.querySelectorAll('#this-{number}, [role=status]')]"
        page.wait(f"{both}.every(each => each.textContent.startsWith('Copied'))")
        assert browser.clipboard(f"{here.plain.proxy.url}/healthz") == lines
    page.wait("[...document.querySelectorAll('button')].every(each => each.textContent.startsWith('Copy '))")
    assert page.evaluate("document.querySelector('[role=status]').textContent") == ""
    assert clean(page, url)


def test_copying_where_nothing_may_copy(browser: Browser, here: Here) -> None:
    """Then the lines are selected, and the button says which keys are left to press."""
    page = browser.open(f"http://{NAME}:{here.plain.proxy.port}/")
    page.evaluate("document.execCommand = () => false")
    page.click("button")
    page.wait("document.querySelector('button').textContent.startsWith('Press Ctrl+C')")
    assert page.evaluate("String(getSelection())").strip() == shown(page)[0]


def test_the_keyboard_alone(browser: Browser, here: Here) -> None:
    """Tab reaches every link, button and fold in the order of the page, each with a ring around it; Enter copies."""
    url = f"{here.plain.proxy.url}/"
    page = browser.open(url)
    count = page.evaluate("document.querySelectorAll('a, button, summary').length")
    hidden = page.evaluate("document.querySelectorAll('details:not([open]) button').length")
    reached = []
    for _ in range(count - hidden):
        page.press("Tab")
        ring = page.evaluate(
            "(() => { const e = document.activeElement, style = getComputedStyle(e);"
            "return [e.tagName, style.outlineStyle, style.outlineWidth, e.getBoundingClientRect().y + scrollY]; })()"
        )
        assert ring[1:3] == ["solid", "2px"], ring
        reached.append((ring[0], ring[3]))
    assert {name for name, _ in reached} == {"A", "BUTTON", "SUMMARY"}
    page.evaluate("document.querySelector('button').focus()")
    page.press("Enter")
    page.wait("document.querySelector('button').textContent.startsWith('Copied')")
    assert browser.clipboard(f"{here.plain.proxy.url}/healthz") == here.plain.proxy.index_url


CONTRAST = """
(() => {
  const channel = (value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const luminance = (color) => {
    const [red, green, blue] = color.match(/[0-9.]+/g).map((each) => channel(each / 255));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const color = getComputedStyle(each).backgroundColor;
      if (!/, 0\\)$|transparent/.test(color)) return color;
    }
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((each) => each.nodeType === 3 && each.data.trim());
    if (!own || !element.checkVisibility() || element.closest("script, .unseen")) continue;
    const [a, b] = [luminance(getComputedStyle(element).color), luminance(behind(element))].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), element.tagName, element.textContent.slice(0, 40)]);
  }
  return found.sort((x, y) => x[0] - y[0]);
})()
"""


def test_light_and_dark(url: str, browser: Browser) -> None:
    """Two sets of colours, by what the reader prefers; all text has a contrast of 4.5 at least (WCAG 2.2, 1.4.3)."""
    page = browser.open(url)
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    seen = []
    for scheme in ("light", "dark"):
        page.emulate(prefers_color_scheme=scheme)
        for change in ("0", "document.querySelectorAll('button').forEach(each => each.classList.add('done'))"):
            page.evaluate(change)
            measured = page.evaluate(CONTRAST)
            assert len(measured) > 40
            assert measured[0][0] >= 4.5, measured[:5]
        page.evaluate("document.querySelectorAll('button').forEach(each => each.classList.remove('done'))")
        colours = "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
        seen.append(page.evaluate(colours))
    assert seen[0][0] != seen[1][0]
    assert seen[0][1] != seen[1][1]
    assert clean(page, url)


OUTSIDE = """
[...document.querySelectorAll("main *, header *, footer *")]
  .filter((each) => each.checkVisibility() && !each.closest(".unseen"))
  .filter((each) => each.getBoundingClientRect().right > document.documentElement.clientWidth)
  .map((each) => each.outerHTML.slice(0, 80))
"""
SMALL = """
[...document.querySelectorAll("button, summary, .files a")]
  .filter((each) => each.checkVisibility() && each.getBoundingClientRect().height < 24)
  .map((each) => each.outerHTML)
"""


def test_every_width(url: str, browser: Browser) -> None:
    """Nothing sticks out of the page, folded or not, nor with text twice as large; what is to be hit is large enough
    (WCAG 2.2, 2.5.8)."""
    page = browser.open(url)
    fits = "document.documentElement.scrollWidth <= innerWidth"
    for folds in ("false", "true"):
        page.evaluate(f"document.querySelectorAll('details').forEach(each => each.open = {folds})")
        for width in (320, 768, 1440):
            page.resize(width)
            assert (page.evaluate("innerWidth"), page.evaluate(fits)) == (width, True)
            assert (page.evaluate(OUTSIDE), page.evaluate(SMALL)) == ([], [])
    page.evaluate("document.documentElement.style.setProperty('font-size', '200%')")
    for width in (320, 768, 1440):
        page.resize(width)
        assert page.evaluate(fits)


def test_its_structure(url: str, browser: Browser) -> None:
    """What tools for reading aloud go by: a language, a title, one h1, no level left out, names that differ."""
    page = browser.open(url)
    assert page.evaluate("document.documentElement.lang") == "en"
    assert Address(url.rstrip("/")).authority in page.evaluate("document.title")
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map(each => +each.tagName[1])")
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip([0, *levels], levels, strict=False))
    names = page.evaluate("[...document.querySelectorAll('button')].map(each => each.textContent)")
    assert len(set(names)) == len(names)
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(each => each.id)")
    assert len(set(ids)) == len(ids)
    referred = page.evaluate(
        "[...document.querySelectorAll('[aria-labelledby]')].map(each => each.getAttribute('aria-labelledby'))"
    )
    assert set(referred) <= set(ids)
    assert page.evaluate("document.querySelector('[role=status]').ariaLive") == "polite"
    assert page.evaluate("document.querySelector('meta[name=color-scheme]').content") == "light dark"
    anchors = page.evaluate("[...document.querySelectorAll('a[href^=\"#\"]')].map(each => each.hash.slice(1))")
    assert set(anchors) <= set(ids)


def test_its_links_lead_somewhere(url: str, browser: Browser, here: Here) -> None:
    """Each is an address of this server, as the client sees it, that answers."""
    page = browser.open(url)
    links = page.evaluate("[...document.querySelectorAll('a:not([href^=\"#\"])')].map(each => each.href)")
    assert {each.removeprefix(url) for each in links} == {"pip.conf", "uv.toml", "healthz", "readyz", "metrics"}
    for link in links:
        path = f"/{link.removeprefix(url)}"
        assert here.ask(here.fronted if url.startswith("https") else here.plain, path, HTML).status == 200
