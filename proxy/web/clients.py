"""How each client is pointed at this proxy: the lines of README's "Your client", for the address one client sees."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Literal
from urllib.parse import urlsplit

Kind = Literal["loopback", "plain", "secure"]
"""How a client reaches us: http on its own machine, http over a network, https. What it must be told hangs on that."""

AUTHORITY = "/etc/ssl/our-ca.pem"
"""Stands for the file of an authority that the client's system does not know: where it lies is theirs to say."""

# What pip takes for safe without TLS: these, and the name. A name below .localhost is not among them.
_LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
# What YAML reads as a string without quotes: "no" is a boolean to it, "10" a number, "[::1]" a list.
_PLAIN_YAML = re.compile(r"https?://[A-Za-z0-9._~:/-]+[A-Za-z0-9/]|[a-z][a-z0-9-]*(?:\.[a-z0-9-]+)+|[0-9]+(?:\.[0-9]+){3}")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a client reaches ``/``: ``root`` is ``scheme://authority``, with a path where a front proxy puts one; no
    final slash."""

    root: str

    @property
    def index(self) -> str:
        """The default index, in the one spelling that all clients share: uv copies it into its lock files."""
        return f"{self.root}/simple"

    def index_of(self, name: str) -> str:
        """The index of that name."""
        return f"{self.root}/index/{name}/simple"

    @property
    def authority(self) -> str:
        """Host and port (RFC 3986 §3.2)."""
        return urlsplit(self.root).netloc

    @property
    def host(self) -> str:
        """The host alone; an IPv6 address in its brackets."""
        found = re.match(r"\[[^\]]*\]|[^:]*", self.authority)
        return found[0] if found else ""

    @property
    def kind(self) -> Kind:
        """As pip sees it."""
        if self.root.startswith("https:"):
            return "secure"
        try:
            own = any(ip_address(self.host.strip("[]")) in network for network in _LOOPBACK)
        except ValueError:
            own = self.host == "localhost"
        return "loopback" if own else "plain"

    def words(self) -> dict[str, str]:
        """What stands in braces in the lines below, spelt for a shell, and for TOML, YAML and INI files."""
        return {
            "index": shlex.quote(self.index),
            "host": shlex.quote(self.host),
            "toml": json.dumps(self.index),
            "verified": "false" if self.kind == "plain" else "true",
            "yaml": _yaml(self.index),
            "yaml_host": _yaml(self.host),
            "ini": self.index,
            "ini_host": self.host,
            "ca_file": AUTHORITY,
        }


def _yaml(text: str) -> str:
    return text if _PLAIN_YAML.fullmatch(text) else json.dumps(text)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Lines: ``always``, and besides with ``plain`` http over a network, or where the ``authority`` of the certificate
    is not known to the client's system. Empty: nothing is needed."""

    always: str
    plain: str = ""
    authority: str = ""

    def lines(self, address: Address) -> list[str]:
        """What is needed at this address."""
        return self._filled(address, self.always) + (self.insisting(address) if address.kind == "plain" else [])

    def insisting(self, address: Address) -> list[str]:
        """What plain http needs besides."""
        return self._filled(address, self.plain)

    def trusting(self, address: Address) -> list[str]:
        """What an unknown authority needs besides."""
        return self._filled(address, self.authority)

    def _filled(self, address: Address, lines: str) -> list[str]:
        return lines.format_map(address.words()).splitlines()


@dataclass(frozen=True, slots=True)
class Client:
    """Clients that need the same, the best known first; ``for_good`` is what to keep in ``file`` instead."""

    names: tuple[str, ...]
    recipe: Recipe
    file: str = ""
    for_good: Recipe | None = None


_TRUSTED, _CERTIFICATE = "export PIP_TRUSTED_HOST={host}", "export PIP_CERT={ca_file}"

CLIENTS = (
    Client(
        ("pip", "hatch", "pip-tools"),
        Recipe("export PIP_INDEX_URL={index}", _TRUSTED, _CERTIFICATE),
        "pip's own settings",
        Recipe("pip config set global.index-url {index}", "pip config set global.trusted-host {host}"),
    ),
    Client(
        ("uv", 'hatch with installer = "uv"'),
        Recipe("export UV_DEFAULT_INDEX={index}", authority="export SSL_CERT_FILE={ca_file}"),
        "pyproject.toml",
        Recipe('[[tool.uv.index]]\nname = "cache"\nurl = {toml}\ndefault = true'),
    ),
    Client(
        ("Poetry",),
        Recipe(
            "poetry source add --priority=primary cache {index}",
            authority="poetry config certificates.cache.cert {ca_file}",
        ),
    ),
    Client(
        ("PDM",),
        Recipe("pdm config pypi.url {index}", "pdm config pypi.verify_ssl false", "pdm config pypi.ca_certs {ca_file}"),
        "pyproject.toml",
        Recipe('[[tool.pdm.source]]\nname = "pypi"\nurl = {toml}', "verify_ssl = false"),
    ),
    Client(
        ("pipenv",),
        Recipe("export PIPENV_PYPI_MIRROR={index}", _TRUSTED, _CERTIFICATE),
        "Pipfile",
        Recipe('[[source]]\nname = "cache"\nurl = {toml}\nverify_ssl = {verified}'),
    ),
)

IMAGE = Recipe(
    "ENV PIP_INDEX_URL={index}\nENV UV_DEFAULT_INDEX={index}",
    "ENV PIP_TRUSTED_HOST={host}",
    "COPY our-ca.pem {ca_file}\nENV PIP_CERT={ca_file} SSL_CERT_FILE={ca_file}",
)
CI = Recipe(
    "variables:\n  PIP_INDEX_URL: {yaml}\n  UV_DEFAULT_INDEX: {yaml}",
    "  PIP_TRUSTED_HOST: {yaml_host}",
    "  PIP_CERT: {ca_file}\n  SSL_CERT_FILE: {ca_file}",
)
PIP_CONF = Recipe(
    "# For ~/.config/pip/pip.conf, on Windows %APPDATA%\\pip\\pip.ini, or whatever file PIP_CONFIG_FILE names.\n"
    "[global]\nindex-url = {ini}",
    "trusted-host = {ini_host}",
    "# Where your system does not know the authority of this server's certificate:\n# cert = {ca_file}",
)
UV_TOML = Recipe(
    "# For ~/.config/uv/uv.toml, on Windows %APPDATA%\\uv\\uv.toml, or whatever file UV_CONFIG_FILE names.\n"
    '[[index]]\nname = "cache"\nurl = {toml}\ndefault = true',
    authority="# Where your system does not know the authority of this server's certificate, set this variable:\n"
    "# SSL_CERT_FILE={ca_file}",
)
