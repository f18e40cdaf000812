"""uv, pip and curl with what is no package index: Python builds, find-links pages, get-pip; from real trees, which are
gone the second time."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import uv

from tests.harness.behaviours import Answer, redirect
from tests.harness.clients import Fresh, Installer, Pip, client_environment, run
from tests.harness.fetch import fetch
from tests.harness.packages import wheel
from tests.harness.server import ProxyServer
from tests.harness.trees import Tree, kept, list_of_builds, python_build
from tests.harness.upstream import Upstream
from tests.harness.waiting import eventually

UV = uv.find_uv_bin()
CURL = ("curl", "--silent", "--show-error", "--fail")
VERSION, DATED = "3.12.99", "20260101"
LONG_AGO = 1767323044.0
FROM_CACHE = {"hit", "stale"}

StartProxy = Callable[..., ProxyServer]
MakeTree = Callable[[str], Tree]
MakeFresh = Callable[[], Fresh]


def raw(proxy: ProxyServer, rest: str = "", mount: str = "tree") -> str:
    """The proxy's URL of something in a mount."""
    return f"{proxy.url}/raw/{mount}/{rest}"


def outcomes(proxy: ProxyServer, number: int) -> set[str]:
    """How so many requests to mounts came about, once they are logged."""

    def seen(lines: Sequence[Mapping[str, object]]) -> bool:
        return len([each for each in lines if str(each.get("path", "")).startswith("/raw/")]) >= number

    proxy.wait_for_log(seen)
    return {each["outcome"] for each in proxy.requests("/raw/")}


# --- uv and Python builds


def install_python(home: Path, **environment: str) -> Path:
    """``uv python install`` with nothing of its own yet; the interpreter. Raises AssertionError with uv's words."""
    env = client_environment(home) | {
        "UV_PYTHON_DOWNLOADS": "manual",
        "UV_PYTHON_INSTALL_DIR": str(home / "pythons"),
        "UV_CACHE_DIR": str(home / "uv"),
        "UV_HTTP_RETRIES": "0",
        **environment,
    }
    del env["UV_PYTHON"]
    done = run([UV, "python", "install", "--no-bin", VERSION], env)
    assert done.returncode == 0, done.stdout
    (python,) = home.glob(f"pythons/cpython-{VERSION}-*/bin/python3.12")
    return python


def uv_says(home: Path, *words: str) -> str:
    """What uv knows by itself."""
    done = subprocess.run([UV, *words], env=client_environment(home), capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize(("program", "way"), [("http.server", "mirror"), ("nginx", "list")])
def test_uv_installs_a_python_build(
    program: str, way: str, tmp_path: Path, start_proxy: StartProxy, make_tree: MakeTree
) -> None:
    """By UV_PYTHON_INSTALL_MIRROR, or by a list whose URLs lead to the mount; again when the origin is down."""
    build = python_build(VERSION, "made for a test")
    name = f"{DATED}/cpython-{VERSION}+{DATED}-install_only.tar.gz"
    with make_tree(program) as tree:
        proxy = start_proxy(indexes={"test": tree.url}, mounts={"builds": tree.url})
        # What is old lives for a while by its Last-Modified; the list is new, and is asked about every time.
        os.utime(tree.write(name, build), (LONG_AGO, LONG_AGO))
        base = raw(proxy, mount="builds").rstrip("/")
        environment = {"UV_PYTHON_DOWNLOADS_JSON_URL": f"{base}/downloads.json"}
        if way == "mirror":
            environment["UV_PYTHON_INSTALL_MIRROR"] = base
            told = " ".join(uv_says(tmp_path / "asking", "help", "python", "install").split())
            found = re.search(r"replace `([^`]*)`", told[told.index("--mirror ") :])
            assert found is not None
            base = found[1]
        builds = json.loads(
            uv_says(tmp_path / "asking", "python", "list", "--only-downloads", "--output-format", "json")
        )
        url = f"{base}/{name.replace('+', '%2B')}"
        listed = list_of_builds(builds, url, VERSION, hashlib.sha256(build).hexdigest())
        tree.write("downloads.json", json.dumps(listed).encode())

        first = install_python(tmp_path / "first", **environment)
        kept(proxy, "builds", "downloads.json", name.replace("+", "%2B"))
    proxy.forget()
    second = install_python(tmp_path / "second", **environment)
    for python in (first, second):
        assert run([python], {}).stdout == "made for a test\n"
    assert outcomes(proxy, 2) == FROM_CACHE


def test_a_build_with_another_hash_is_refused_by_uv(
    tmp_path: Path, start_proxy: StartProxy, make_tree: MakeTree
) -> None:
    """A mount vouches for nothing: what uv knows of the build decides."""
    with make_tree("http.server") as tree:
        proxy = start_proxy(indexes={"test": tree.url}, mounts={"builds": tree.url})
        tree.write("build.tar.gz", python_build(VERSION, "made for a test"))
        builds = json.loads(
            uv_says(tmp_path / "asking", "python", "list", "--only-downloads", "--output-format", "json")
        )
        listed = list_of_builds(builds, raw(proxy, "build.tar.gz", "builds"), VERSION, "0" * 64)
        tree.write("downloads.json", json.dumps(listed).encode())
        with pytest.raises(AssertionError, match="ash mismatch"):
            install_python(tmp_path / "home", UV_PYTHON_DOWNLOADS_JSON_URL=raw(proxy, "downloads.json", "builds"))


# --- find-links


def find_links(client: Installer, fresh: Fresh, url: str, *requirements: str) -> None:
    """Installs from that page alone, with empty caches. Raises AssertionError with the client's words."""
    words: list[str | Path]
    if client.pip is None:
        words = [UV, "pip", "install", "--python", fresh.python]
    else:
        words = [client.pip.python, "-m", "pip", "--no-input", "--python", fresh.python, "install"]
    done = run([*words, "--no-index", "--find-links", url, *requirements], fresh.environment)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("program", ["http.server", "nginx"])
def test_a_find_links_page(
    program: str, new_pip: Pip, start_proxy: StartProxy, make_tree: MakeTree, fresh: MakeFresh
) -> None:
    """A directory as the server lists it, without validators or a word on its life: pip and uv install its wheels, and
    again when the origin is down."""
    clients = (Installer("pip", new_pip), Installer("uv", None))
    files = [wheel("top", requires=["leaf"]), wheel("leaf")]
    made: list[Fresh] = []

    def install() -> None:
        for client in clients:
            made.append(fresh())
            find_links(client, made[-1], raw(proxy, "links/"), "top")

    with make_tree(program) as tree:
        for each in files:
            tree.write(f"links/{each.filename}", each.data)
        proxy = start_proxy(indexes={"test": tree.url}, mounts={"tree": tree.url})
        install()
        kept(proxy, "tree", "links/", *(f"links/{each.filename}" for each in files))
    proxy.forget()
    install()
    for each_one in made:
        assert (each_one.version_of("top"), each_one.version_of("leaf")) == ("1.0", "1.0")
    assert outcomes(proxy, 6) <= FROM_CACHE


def test_a_page_whose_links_are_absolute_leads_past_the_mount(
    new_pip: Pip, start_proxy: StartProxy, make_tree: MakeTree, fresh: MakeFresh
) -> None:
    """Bodies are never rewritten: the page is cached, what it leads to is fetched where it lies."""
    file = wheel("thing")
    with make_tree("http.server") as tree:
        tree.write(f"files/{file.filename}", file.data)
        page = f'<a href="{tree.url}files/{file.filename}#sha256={file.sha256}">{file.filename}</a>'.encode()
        tree.write("links.html", page)
        proxy = start_proxy(indexes={"test": tree.url}, mounts={"tree": tree.url})
        one = fresh()
        find_links(Installer("pip", new_pip), one, raw(proxy, "links.html"), "thing")
        assert one.version_of("thing") == "1.0"
        assert fetch(raw(proxy, "links.html")).body == page
        eventually(lambda: len(proxy.requests()) >= 2, "they are logged")
        assert {each["path"] for each in proxy.requests()} == {"/raw/tree/links.html"}
        assert f"GET /files/{file.filename} " in tree.asked


# --- get-pip


def curl(*words: str | Path, cwd: Path | None = None) -> str:
    """What curl said, without the machine's configuration. Raises AssertionError when it fails."""
    done = run([CURL[0], "--disable", *CURL[1:], *words], {"PATH": os.environ["PATH"]}, cwd)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_get_pip_behind_redirects(upstream: Upstream, start_proxy: StartProxy) -> None:
    """A chain of them within the mount is followed there, relative ones, rooted ones and absolute ones; the script is
    kept, and so is a lasting redirect."""
    script = Answer(status=200, body=b"print('get-pip')\n", headers={"Cache-Control": "max-age=600"})
    forever = redirect("sub/second.py", 301)
    upstream.script("/tree/get-pip.py", forever)
    upstream.script("/tree/sub/second.py", redirect("/tree/third.py"))
    upstream.script("/tree/third.py", redirect(f"{upstream.origin}/tree/deep/er/get-pip.py?x=1"))
    upstream.script("/tree/deep/er/get-pip.py", script)
    proxy = start_proxy(upstream, mounts={"tree": f"{upstream.origin}/tree/"})
    assert curl("--location", raw(proxy, "get-pip.py")) == "print('get-pip')\n"
    assert [each.target for each in upstream.log][-1] == "/tree/deep/er/get-pip.py?x=1"
    eventually(lambda: len(proxy.requests("/raw/tree/")) == len(upstream.log) == 4, "four requests are logged")
    assert {each.headers.get("via") is not None for each in upstream.log} == {True}


def test_a_redirect_to_another_origin(upstream: Upstream, start_proxy: StartProxy) -> None:
    """The client goes there itself: the proxy follows nothing, and keeps nothing that it was not told to."""
    signed = f"{upstream.files_url}/blob?X-Signature=canary-signature"
    upstream.script("/tree/model.bin", redirect(signed))
    upstream.script("/blob", Answer(status=200, body=b"model"))
    proxy = start_proxy(upstream, mounts={"tree": f"{upstream.origin}/tree/"})
    for _ in range(2):
        answer = fetch(raw(proxy, "model.bin"))
        assert (answer.status, answer.headers["location"]) == (302, signed)
    assert upstream.count("GET", "/blob") == 0
    assert upstream.count("GET", "/tree/model.bin") == 2
    assert curl("--location", raw(proxy, "model.bin")) == "model"
    (at_storage,) = [each for each in upstream.log if each.path == "/blob"]
    assert "via" not in at_storage.headers
    assert "canary-signature" not in proxy.stderr
    assert all(b"canary-signature" not in path.read_bytes() for path in proxy.cache.rglob("*") if path.is_file())


def test_a_download_goes_on_where_it_broke(tmp_path: Path, start_proxy: StartProxy, make_tree: MakeTree) -> None:
    """``curl -C -`` gets the rest from the cached body, also when the origin is down; the whole file is right."""
    data = os.urandom(300_000)
    with make_tree("nginx") as tree:
        tree.write("model.bin", data)
        proxy = start_proxy(indexes={"test": tree.url}, mounts={"tree": tree.url})
        assert fetch(raw(proxy, "model.bin")).body == data
        kept(proxy, "tree", "model.bin")
    (tmp_path / "model.bin").write_bytes(data[:100_000])
    curl("-C", "-", "-O", raw(proxy, "model.bin"), cwd=tmp_path)
    assert (tmp_path / "model.bin").read_bytes() == data
    assert "\nContent-Length: 300000\n" in curl("--head", raw(proxy, "model.bin"))
