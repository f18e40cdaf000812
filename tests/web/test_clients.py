"""The lines for each client: README's own, for the address that one client sees, whatever that address holds."""

from __future__ import annotations

import configparser
import html
import json
import re
import shlex
import subprocess
import tomllib

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from proxy.spelling import parse_public_url
from proxy.web.clients import AUTHORITY, CI, CLIENTS, IMAGE, PIP_CONF, UV_TOML, Address, Client, Recipe
from proxy.web.landing import configuration, hypertext, plain_text
from tests.e2e.test_readme import AUTHORITY as README_AUTHORITY
from tests.e2e.test_readme import LOOPBACK, PLAIN, SECURE, block, table

ROOTS = (LOOPBACK, PLAIN, SECURE)
HOSTILE = "\"><script>alert(1)</script><a href='javascript:alert(1)' onclick=alert(1)>{{ 7*7 }}{% raw %}</style>&amp;"


def client_of(name: str) -> Client:
    """The one that README calls so."""
    (one,) = [each for each in CLIENTS if name.replace("`", "") in each.names]
    return one


def visible(page: str) -> list[str]:
    """What each block of code says, as its copy button takes it."""
    blocks = re.findall(r"<pre><code>(.*?)</code></pre>", page, re.DOTALL)
    return [html.unescape(re.sub(r"</?(?:span|wbr)>", "", each)) for each in blocks]


def test_it_says_what_readme_says() -> None:
    """Each row of the table, each cell of it: the lines that are run by tests/e2e/test_readme.py."""
    assert AUTHORITY == README_AUTHORITY
    assert {name.replace("`", "") for name in table()} == {name for each in CLIENTS for name in each.names}
    for name, (line, plain, secure) in table().items():
        recipe = client_of(name).recipe
        for root, more in ((LOOPBACK, []), (PLAIN, plain), (SECURE, [])):
            assert recipe.lines(Address(root)) == [each.replace(LOOPBACK, root) for each in line] + more, (name, root)
        assert recipe.trusting(Address(SECURE)) == secure, name


def test_it_says_what_readme_says_elsewhere() -> None:
    """Project files, images and CI; the order of variables is free."""
    plain = Address(PLAIN)
    for name, begins in (("PDM", "# pyproject.toml, for PDM"), ("pipenv", "# Pipfile")):
        recipe = client_of(name).for_good
        assert recipe is not None
        assert recipe.lines(plain) == block(begins).splitlines()[1:]
    for name, begins in (("uv", "# pyproject.toml, for uv"), ("pip", "pip config set")):
        recipe = client_of(name).for_good
        assert recipe is not None
        assert recipe.lines(Address(LOOPBACK)) == [each for each in block(begins).splitlines() if each[0] != "#"]
    words = [word for line in block("ENV ").splitlines() for word in line.split()]
    assert sorted([*words, "ENV"]) == sorted(word for line in IMAGE.lines(plain) for word in line.split())
    assert yaml.safe_load("\n".join(CI.lines(plain))) == yaml.safe_load(block("# CI"))


@pytest.mark.parametrize("root", ROOTS)
def test_the_page_and_the_text_hold_all_of_it(root: str) -> None:
    """Every line that this address needs, in both; none that only another needs."""
    address = Address(root)
    page, text = visible(hypertext(address, ["first", "second"])), plain_text(address, ["first", "second"])
    needed = [each.recipe.lines(address) for each in CLIENTS] + [IMAGE.lines(address), CI.lines(address)]
    needed += [[address.index_of("second")]]
    needed += [each.recipe.trusting(address) for each in CLIENTS] if root == SECURE else []
    for lines in needed:
        assert "\n".join(lines) in page
        assert "".join(f"\n  {each}" for each in lines) in text
    good = ["\n".join(each.for_good.lines(address)) for each in CLIENTS if each.for_good is not None]
    assert set(good) < set(page)
    for said in ("\n".join(page), text):
        assert ("TRUSTED_HOST" in said, AUTHORITY in said) == (root == PLAIN, root == SECURE)


@pytest.mark.parametrize(
    ("root", "kind", "host"),
    [
        ("http://127.0.0.1:3143", "loopback", "127.0.0.1"),
        ("http://127.8.0.1", "loopback", "127.8.0.1"),
        ("http://localhost:3143", "loopback", "localhost"),
        ("http://[::1]:3143", "loopback", "[::1]"),
        # pip takes none of these for its own machine.
        ("http://proxy.localhost:3143", "plain", "proxy.localhost"),
        ("http://[::ffff:127.0.0.1]:3143", "plain", "[::ffff:127.0.0.1]"),
        ("http://127.1:3143", "plain", "127.1"),
        ("http://0.0.0.0:3143", "plain", "0.0.0.0"),
        ("http://192.0.2.1:3143", "plain", "192.0.2.1"),
        ("http://[2001:db8::1]:3143", "plain", "[2001:db8::1]"),
        ("http://example.com/pypi", "plain", "example.com"),
        ("https://127.0.0.1:3143", "secure", "127.0.0.1"),
        ("https://example.com/pypi", "secure", "example.com"),
    ],
)
def test_kinds(root: str, kind: str, host: str) -> None:
    """Where a trusted host has to be named, and which."""
    assert (Address(root).kind, Address(root).host) == (kind, host)


ODD_ROOTS = (
    "http://[2001:db8::1]:3143",
    "http://no",
    "http://10",
    "http://1.5:80",
    "http://example.com/a'b$(id)`;&|*~%41{index}",
    "http://$(touch).example.com/!",
)


@pytest.mark.parametrize("root", [*ROOTS, *ODD_ROOTS])
def test_every_spelling_is_read_as_it_is_meant(root: str) -> None:
    """By a shell, by TOML, YAML and INI: what an address holds is never taken for anything but an address."""
    address = Address(root)
    index, host = f"{root}/simple", address.host
    for recipe in [*(client.recipe for client in CLIENTS), Recipe("pip config set global.trusted-host {host}")]:
        for line in recipe.lines(address):
            # A shell that prints what it would have given to a program, or to a variable.
            told = line.removeprefix("export ")
            done = subprocess.run(["sh", "-c", f"printf '%s ' {told}"], capture_output=True, text=True, check=True)
            assert done.stdout.strip() == told.replace(shlex.quote(index), index).replace(shlex.quote(host), host)
            assert done.stderr == ""
    variables = yaml.safe_load("\n".join(CI.lines(address)))["variables"]
    assert variables["PIP_INDEX_URL"] == variables["UV_DEFAULT_INDEX"] == index
    assert variables.get("PIP_TRUSTED_HOST", host) == host
    parsed = configparser.RawConfigParser()
    parsed.read_string(configuration(PIP_CONF, address))
    trusted = {"trusted-host": host} if address.kind == "plain" else {}
    assert dict(parsed["global"]) == {"index-url": index} | trusted
    (only,) = tomllib.loads(configuration(UV_TOML, address))["index"]
    assert only == {"name": "cache", "url": index, "default": True}
    for for_good in (each.for_good for each in CLIENTS if each.file in ("pyproject.toml", "Pipfile")):
        assert for_good is not None
        assert json.dumps(index) in json.dumps(tomllib.loads("\n".join(for_good.lines(address))))


@given(st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"]), max_size=40))
def test_whatever_public_url_may_hold(path: str) -> None:
    """No public_url that the settings take breaks the page or a file."""
    try:
        root = parse_public_url(f"http://example.com/{path}")
    except ValueError:
        return
    address = Address(root)
    assert address.index in visible(hypertext(address, ["only"]))
    assert shlex.split(CLIENTS[0].recipe.lines(address)[0])[1] == f"PIP_INDEX_URL={address.index}"
    assert yaml.safe_load("\n".join(CI.lines(address)))["variables"]["PIP_INDEX_URL"] == address.index


def test_nothing_is_markup_that_was_put_in() -> None:
    """Were a Host or an index name ever to hold more than it can: it is text on the page."""
    calm = hypertext(Address("http://example.com"), ["calm", "calm"])
    page = hypertext(Address(f"http://example.com/{HOSTILE}"), ["calm", HOSTILE])
    assert re.findall(r"<(?!/?(?:span|wbr)\b)/?\w+", page) == re.findall(r"<(?!/?(?:span|wbr)\b)/?\w+", calm)
    assert "<script>alert" not in page
    assert "onclick=alert" not in re.sub(r"(?<=>)[^<]*|\"[^\"]*\"", "", page)
    assert Address(f"http://example.com/{HOSTILE}").index in visible(page)


def test_a_recipe_adds_what_is_needed_and_nothing_else() -> None:
    """The three parts, one by one."""
    recipe = Recipe("a {index}", "b {host}", "c {ca_file}")
    assert recipe.lines(Address(LOOPBACK)) == [f"a {LOOPBACK}/simple"]
    assert recipe.lines(Address(PLAIN)) == [f"a {PLAIN}/simple", "b proxy.example.com"]
    assert recipe.lines(Address(SECURE)) == [f"a {SECURE}/simple"]
    assert recipe.trusting(Address(SECURE)) == [f"c {AUTHORITY}"]
    assert Recipe("a").trusting(Address(SECURE)) == []
