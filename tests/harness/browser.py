"""A real browser without a screen, driven over its DevTools protocol; it reaches nothing but the loopback."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from tests.harness.waiting import eventually

PATIENCE = 60.0
NAME = "proxy.example.com"
"""Leads to 127.0.0.1 in there: http under this name is what a browser sees on a network, and no secure context."""
Message = dict[str, Any]
Result = TypeVar("Result")

_QUIET = (
    "--headless=new",
    "--no-first-run",
    "--no-default-browser-check",
    "--no-proxy-server",
    # The sandbox refuses root and wants what containers may not have; the pages are our own.
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-breakpad",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-gpu",
    "--disable-sync",
    # It would try https first.
    "--disable-features=HttpsUpgrades,OptimizationHints,MediaRouter",
    f"--host-resolver-rules=MAP {NAME} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
    "--password-store=basic",
    "--remote-debugging-port=0",
)


def program() -> str | None:
    """Where the browser is, None when there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def pin(certificate: Path) -> str:
    """The hash of its public key (RFC 7469 §2.4), by which a browser is told to take it."""
    key = x509.load_pem_x509_certificate(certificate.read_bytes()).public_key()
    spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(spki).digest()).decode()


class Browser:
    """A context manager: running inside, ended outside. Its profile lies below ``directory``; ``pins`` are those of
    certificates that it takes without knowing their authority.

    Its messages are read while a call waits for its answer, so there is no thread and no loop that runs beside.
    """

    def __init__(self, directory: Path, pins: Sequence[str] = ()) -> None:
        self._directory = directory
        self._pins = tuple(pins)
        self._loop = asyncio.new_event_loop()
        self._process: subprocess.Popen[bytes] | None = None
        self._http: aiohttp.ClientSession | None = None
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._number = 0
        self._pages: dict[str, Page] = {}
        self._reader: Page | None = None

    def __enter__(self) -> Self:
        profile = self._directory / "profile"
        profile.mkdir(parents=True)
        found = program()
        assert found is not None, "there is no browser"
        more = [f"--ignore-certificate-errors-spki-list={','.join(self._pins)}"] if self._pins else []
        with (self._directory / "said").open("wb") as said:
            self._process = subprocess.Popen(
                [found, *_QUIET, *more, f"--user-data-dir={profile}", "about:blank"],
                env={"PATH": os.environ["PATH"], "HOME": str(self._directory), "TMPDIR": str(self._directory)},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )
        try:
            eventually(lambda: self._port() is not None, "the browser listens", PATIENCE)
            self._run(self._connect())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def open(
        self, url: str, *, scripts: bool = True, width: int = 1024, headers: Mapping[str, str] | None = None
    ) -> Page:
        """A new page of its own, loaded from that URL. AssertionError when it cannot be."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session, context)
        for domain in ("Page", "Runtime", "Network", "Log", "Audits"):
            page.call(f"{domain}.enable")
        page.call("Emulation.setFocusEmulationEnabled", enabled=True)
        page.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        if headers:
            page.call("Network.setExtraHTTPHeaders", headers=dict(headers))
        page.resize(width)
        page.load(url)
        return page

    def close_pages(self) -> None:
        """All that were opened, with what they stored."""
        while self._pages:
            _, page = self._pages.popitem()
            self.call("Target.disposeBrowserContext", browserContextId=page.context)

    def clipboard(self, url: str) -> str:
        """What it holds, as a page may read that comes from this URL, in a secure context."""
        if self._reader is None:
            self._reader = self.open(url)
            del self._pages[self._reader.session]  # it stays
            context = self._reader.context
            self.call("Browser.grantPermissions", browserContextId=context, permissions=["clipboardReadWrite"])
        return str(self._reader.evaluate("navigator.clipboard.readText()"))

    def call(self, method: str, session: str | None = None, **parameters: Any) -> Message:
        """The result of a command of the protocol. AssertionError with what the browser said when it refuses."""
        return self._run(self._call(method, session, parameters))

    def listen(self) -> None:
        """Takes in the next message."""
        self._run(self._receive())

    async def _connect(self) -> None:
        self._http = aiohttp.ClientSession()
        url = f"ws://127.0.0.1:{self._port()}"
        self._socket = await self._http.ws_connect(f"{url}{self._path()}", max_msg_size=0)

    async def _disconnect(self) -> None:
        if self._socket is not None:
            await self._socket.close()
        if self._http is not None:
            await self._http.close()

    async def _call(self, method: str, session: str | None, parameters: Message) -> Message:
        assert self._socket is not None
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": parameters}
        await self._socket.send_json(message if session is None else {**message, "sessionId": session})
        while (answer := await self._receive()).get("id") != number:
            pass
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: Message = answer["result"]
        return result

    async def _receive(self) -> Message:
        assert self._socket is not None
        message: Message = json.loads(await self._socket.receive_str(timeout=PATIENCE))
        page = self._pages.get(message.get("sessionId", ""))
        if page is not None and "method" in message:
            page.events.append(message)
        return message

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self._loop.run_until_complete(work)

    def _said(self) -> list[str]:
        file = self._directory / "profile" / "DevToolsActivePort"
        return file.read_text().split() if file.exists() else []

    def _port(self) -> str | None:
        assert self._process is not None
        assert self._process.poll() is None, (self._directory / "said").read_text(errors="replace")
        said = self._said()
        return said[0] if len(said) == 2 else None

    def _path(self) -> str:
        return self._said()[1]

    def _end(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(AssertionError, TypeError, OSError, TimeoutError):
                self.call("Browser.close")
        self._run(self._disconnect())
        self._loop.close()
        if self._process is not None:
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(PATIENCE)


class Page:
    """One tab in a ``context`` (of storage, of permissions) of its own. ``events`` is all that it told so far."""

    def __init__(self, browser: Browser, session: str, context: str) -> None:
        self.events: list[Message] = []
        self._browser = browser
        self.session = session
        self.context = context

    def call(self, method: str, **parameters: Any) -> Message:
        """A command for this page."""
        return self._browser.call(method, self.session, **parameters)

    def load(self, url: str) -> None:
        """Goes there, and waits until all of it is there."""
        self.events.clear()
        went = self.call("Page.navigate", url=url)
        assert "errorText" not in went, went
        while not self.told("Page.loadEventFired"):
            self._browser.listen()

    def wait(self, expression: str) -> None:
        """Returns once the expression is true in the page. AssertionError when that takes too long."""
        eventually(lambda: self.evaluate(expression), expression, PATIENCE)

    def told(self, method: str) -> list[Message]:
        """The parameters of each event of that name."""
        return [each["params"] for each in self.events if each["method"] == method]

    @property
    def requested(self) -> list[str]:
        """The URL of everything that was asked for, from wherever."""
        return [each["request"]["url"] for each in self.told("Network.requestWillBeSent")]

    @property
    def complaints(self) -> list[Message]:
        """What a developer would find in the console: errors and violations of the page's policy."""
        names = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Audits.issueAdded")
        return [each for name in names for each in self.told(name)]

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page, that of a promise once it is there; what it throws is an
        AssertionError. Works where the page's own scripts do not, too."""
        done = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def resize(self, width: int, height: int = 900) -> None:
        """The window's inside, in CSS pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def emulate(self, **features: str) -> None:
        """Media features, ``prefers_color_scheme="dark"``."""
        listed = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.call("Emulation.setEmulatedMedia", features=listed)

    def press(self, key: str) -> None:
        """A key on the keyboard: Tab or Enter."""
        code = {"Tab": 9, "Enter": 13}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def click(self, selector: str) -> None:
        """The mouse, in the middle of that element, which is brought into view first."""
        x, y = self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center', behavior: 'instant'}); const r = e.getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, file: Path) -> None:
        """All of the page, below the window's edge, too, as PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))
