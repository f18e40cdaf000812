"""What is in deploy/ is right as far as it can be checked without installing it."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy import __version__
from proxy.cli import EX_CONFIG, EX_TEMPFAIL
from proxy.config import SECTIONS, Settings

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "pip-cache-proxy.service"
CONTAINERFILE = DEPLOY / "Containerfile"


def unit() -> dict[str, list[str]]:
    """The [Service] section: key to all its values."""
    parser = configparser.RawConfigParser(strict=False, comment_prefixes="#", delimiters="=")
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's keys have capitals
    parser.read_string(UNIT.read_text())
    assert parser.sections() == ["Unit", "Service", "Install"]
    # configparser keeps the last of several values of one key, systemd all.
    values: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), re.MULTILINE):
        values.setdefault(key, []).append(value)
    return values


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("DynamicUser", "yes"),
        ("NoNewPrivileges", "yes"),
        ("CapabilityBoundingSet", ""),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("PrivateTmp", "yes"),
        ("PrivateDevices", "yes"),
        ("ProtectKernelTunables", "yes"),
        ("ProtectKernelModules", "yes"),
        ("ProtectKernelLogs", "yes"),
        ("ProtectControlGroups", "yes"),
        ("RestrictNamespaces", "yes"),
        ("RestrictSUIDSGID", "yes"),
        ("RestrictAddressFamilies", "AF_INET AF_INET6 AF_UNIX"),
        ("MemoryDenyWriteExecute", "yes"),
        ("LockPersonality", "yes"),
        ("SystemCallArchitectures", "native"),
        ("CacheDirectory", "pip-cache-proxy"),
        ("CacheDirectoryMode", "0700"),
    ],
)
def test_unit_is_hardened(key: str, value: str) -> None:
    """No privileges, a read-only system, one directory to write to."""
    assert unit()[key] == [value]


def test_unit_runs_the_command_as_it_is() -> None:
    """Its arguments are parsed by the real parser, and its cache is the directory systemd makes."""
    (line,) = unit()["ExecStart"]
    command, *arguments = shlex.split(line)
    assert Path(command).name == "pip-cache-proxy"
    assert arguments == ["serve", "--config", "/etc/pip-cache-proxy/config.toml", "--cache-dir", "${CACHE_DIRECTORY}"]


def test_unit_reloads_with_the_signal_that_the_server_knows() -> None:
    """A renewed certificate needs no restart, and the local socket has a directory."""
    assert unit()["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert unit()["RuntimeDirectory"] == ["pip-cache-proxy"]


def test_unit_does_not_restart_what_cannot_mend() -> None:
    """A bad setting and another owner need a person."""
    (codes,) = unit()["RestartPreventExitStatus"]
    assert {int(code) for code in codes.split()} == {EX_CONFIG, EX_TEMPFAIL}


def test_unit_leaves_time_to_drain_and_room_for_connections() -> None:
    """systemd's patience is longer than ours, its limit higher."""
    settings = Settings()
    assert int(unit()["TimeoutStopSec"][0]) > settings.server.drain
    # Each client may have an upstream connection and two open files beside its own socket.
    assert int(unit()["LimitNOFILE"][0]) >= 4 * settings.limits.client_connections


def verifiable(tmp_path: Path) -> Path:
    """The unit with a command that exists on this machine: systemd looks for it."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/pip-cache-proxy/bin/pip-cache-proxy", shutil.which("true") or ""))
    return copy


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """No unknown key, no value it cannot read."""
    command = ["systemd-analyze", "verify", "--man=no", str(verifiable(tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, UNIT.name in done.stderr) == (0, False), done.stderr


def test_systemd_finds_the_unit_well_protected(tmp_path: Path) -> None:
    """Its own measure of exposure, 0 to 10: a service is "OK" up to 3."""
    path = verifiable(tmp_path)
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=20", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze cannot judge a unit offline")
    assert done.returncode == 0, done.stdout[-400:] + done.stderr


def instructions() -> list[tuple[str, str]]:
    """The Containerfile's instructions, with continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", CONTAINERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def test_container_copies_files_that_exist() -> None:
    """From the root of the project, and among them all that the build needs."""
    copied: list[str] = []
    for word, rest in instructions():
        if word == "COPY" and not rest.startswith("--from="):
            *sources, _target = rest.split()
            copied += sources
    assert all((ROOT / source).exists() for source in copied), copied
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"pyproject.toml", "proxy/", "constraints.txt", project["readme"], *project["license-files"]} <= set(copied)


def test_container_is_built_for_the_oldest_python_and_names_no_registry() -> None:
    """The image's name is left to the builder's own configuration of registries."""
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
    images = [rest.split()[0] for word, rest in instructions() if word == "FROM"]
    assert set(images) == {f"python:{oldest}-slim"}


def test_container_runs_as_a_numbered_user_that_is_not_root() -> None:
    """An orchestrator can verify a number."""
    (user,) = [rest for word, rest in instructions() if word == "USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


def test_container_keeps_its_cache_in_the_volume_and_listens_on_its_port() -> None:
    """Environment, volume, port and probe agree with each other and with the settings."""
    words = dict(instructions())
    environment = dict(word.split("=", 1) for word in words["ENV"].split())
    for name in environment:
        section, key = name.removeprefix("PIPCACHEPROXY_").lower().split("__")
        assert key in SECTIONS[section].model_fields
    port = Settings().server.port
    assert environment["PIPCACHEPROXY_CACHE__DIR"] == words["VOLUME"] == "/cache"
    assert words["EXPOSE"] == str(port)
    assert f"http://127.0.0.1:{port}/healthz" in words["HEALTHCHECK"]


def test_container_probe_is_a_program() -> None:
    """The line that asks /healthz compiles."""
    probe = re.search(r'"-c", "(.*)"\]', dict(instructions())["HEALTHCHECK"])
    assert probe is not None
    compile(probe[1], "HEALTHCHECK", "exec")


def compose() -> dict[str, Any]:
    loaded = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    assert isinstance(loaded, dict)
    return loaded


def test_compose_builds_this_version_from_the_containerfile() -> None:
    """Paths are relative to the compose file."""
    service = compose()["services"]["proxy"]
    context = (DEPLOY / service["build"]["context"]).resolve()
    assert context == ROOT
    assert context / service["build"]["dockerfile"] == CONTAINERFILE
    assert service["image"] == f"pip-cache-proxy:{__version__}"


def test_compose_shares_with_this_machine_only_and_keeps_the_cache() -> None:
    """Loopback, a named volume where the container keeps its cache, and time to drain."""
    service = compose()["services"]["proxy"]
    port = Settings().server.port
    assert service["ports"] == [f"127.0.0.1:{port}:{port}"]
    ((volume, target),) = [each.split(":") for each in service["volumes"]]
    assert target == dict(instructions())["VOLUME"]
    assert volume in compose()["volumes"]
    assert int(service["stop_grace_period"].removesuffix("s")) > Settings().server.drain
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
