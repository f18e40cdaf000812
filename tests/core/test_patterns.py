"""Patterns as `pip cache` reads them, and what they name beyond wheels."""

from __future__ import annotations

import tempfile
from optparse import Values
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pip._internal.commands.cache import CacheCommand

from proxy.core import patterns
from proxy.core.patterns import ALL, FILES, MOUNTS, RESPONSES, Kind, Selection, kind_of, version_of
from proxy.core.urls import projects_of

WHEELS = (
    "six-1.16.0-py2.py3-none-any.whl",
    "Six-1.16.0-py2.py3-none-any.whl",
    "sixer-1.6.1-py2.py3-none-any.whl",
    "zope.interface-5.0-cp311-cp311-linux_x86_64.whl",
    "zope_interface-6.0-cp311-cp311-linux_x86_64.whl",
    "typing_extensions-4.12.2-py3-none-any.whl",
    "docopt-0.6.2-1build-py2.py3-none-any.whl",
    "a[b]-1.0+local.1-py3-none-any.whl",
    "UPPER-1.0-py3-none-any.WHL",
    "nothing.whl",
)
PATTERNS = (
    *(
        "six",
        "Six",
        "s*",
        "s?x",
        "[sS]ix",
        "[!s]ix",
        "six-",
        "six-1",
        "six-1.16*",
        "six-*",
        "*-1.16.0",
        "-",
        "*-*",
        "*.",
    ),
    *(
        "zope.interface",
        "zope_interface",
        "zope-interface",
        "zope?interface",
        "typing-extensions",
        "typing_extensions-4",
    ),
    *(
        "docopt-0.6.2-1build",
        "docopt-0.6.3",
        "a[b]",
        "a[[]b]",
        "a[[]b]-1.0+local.1",
        "UPPER",
        "upper",
        "nothing",
        "",
        " ",
    ),
    *("six-1.16.0-py2.py3-none-any.whl", "six-1.16.0-py2.py3-none-any", "[", "[a-z]*", "[]-]", "six\n", "**", "?*"),
)


def pips_choice(directory: Path, pattern: str) -> set[str]:
    """The names that the installed pip's own command finds in that cache."""
    options = Values({"cache_dir": str(directory)})
    found = CacheCommand._find_wheels(CacheCommand("cache", "summary"), options, pattern)
    return {Path(path).name for path in found}


def our_choice(names: tuple[str, ...], pattern: str) -> set[str]:
    """Those that the pattern covers, in the project of each."""
    selection = Selection(pattern, kinds=FILES)
    return {name for name in names if selection.covers("wheel", "main", "".join(projects_of(name)[:1]), name)}


def planted(directory: Path, names: tuple[str, ...]) -> None:
    """Put wheels of those names where pip looks for them."""
    for number, name in enumerate(names):
        place = directory / "wheels" / str(number)
        place.mkdir(parents=True)
        (place / name).touch()


@pytest.fixture(scope="module")
def planted_wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of pip's with all of them."""
    directory: Path = tmp_path_factory.mktemp("pip")
    planted(directory, WHEELS)
    return directory


@pytest.mark.parametrize("pattern", PATTERNS)
def test_wheels_are_chosen_as_pip_chooses_them(planted_wheels: Path, pattern: str) -> None:
    """Word for word: what the command of the installed pip would list, and nothing else."""
    assert our_choice(WHEELS, pattern) == pips_choice(planted_wheels, pattern)


TEXTS = st.text(st.sampled_from("ab1.-_+"), min_size=1, max_size=6)
PIECES = st.sampled_from(["a", "b", "1", "A", ".", "-", "_", "*", "?", "[ab]", "[!a]", "[", "]", "[a-b]", "!", "*.whl"])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(TEXTS, max_size=5, unique=True), st.lists(PIECES, max_size=6).map("".join).filter(lambda text: text != "*")
)
def test_any_pattern_over_any_name(texts: list[str], pattern: str) -> None:
    """The law behind the table: whatever is asked of whatever names, pip would choose the same."""
    names = tuple(f"{text}.whl" for text in texts if not text.startswith("."))
    with tempfile.TemporaryDirectory() as directory:
        planted(Path(directory), names)
        assert our_choice(names, pattern) == pips_choice(Path(directory), pattern)


@pytest.mark.parametrize("kind", sorted(ALL))
@pytest.mark.parametrize(("project", "filename"), [("six", "six-1.0.tar.gz"), ("", ""), ("", None), ("six", None)])
def test_a_star_alone_is_everything(kind: Kind, project: str, filename: str | None) -> None:
    """`*` is what `purge` is: not even a name is needed; of the kinds that are asked for."""
    assert Selection().covers(kind, "main", project, filename)
    assert Selection(kinds=RESPONSES).covers(kind, "main", project, filename) == (kind == "response")


@pytest.mark.parametrize(
    ("pattern", "project", "covered"),
    [
        ("zope.interface", "zope-interface", True),
        ("Zope_Interface", "zope-interface", True),
        ("zope-interface", "zope-interface", True),
        ("Zope-interface", "zope-interface", True),
        ("zope", "zope-interface", False),
        ("zope*", "zope-interface", True),
        ("zope.*", "zope-interface", True),
        ("z?pe.interface", "zope-interface", True),
        # A pattern with a dash is one over the names of wheels; but for a project's own.
        ("zope-*", "zope-interface", False),
        ("six-1.0", "six", False),
        ("six-1.0*", "six", False),
        ("six", "six", True),
        ("*", "", True),
        ("**", "", False),
        ("?", "", False),
        ("", "six", False),
    ],
)
def test_what_is_no_wheel_is_named_by_its_project(pattern: str, project: str, covered: bool) -> None:
    """In any spelling of it; pip knows no sdists, and finds none by a glob over file names."""
    selection = Selection(pattern)
    assert selection.covers("sdist", "main", project, "anything-1.0.tar.gz") is covered
    assert selection.covers("response", "main", project, None) is covered
    assert selection.covers("response", "main", project, "anything-1.0-py3-none-any.whl.metadata") is covered


@pytest.mark.parametrize(
    ("selection", "covered"),
    [
        (Selection(project="six"), True),
        (Selection(project="other"), False),
        (Selection(index="main"), True),
        (Selection(index="other"), False),
        (Selection(version="1.16"), True),
        (Selection(version="1.17"), False),
        (Selection("six", "six", "1.16.0", "main", frozenset({"wheel"})), True),
        (Selection("sixer", "six", "1.16.0", "main"), False),
        (Selection(kinds=frozenset({"sdist", "response"})), False),
        (Selection(kinds=frozenset()), False),
    ],
)
def test_filters_let_through_what_agrees_with_all_of_them(selection: Selection, covered: bool) -> None:
    """Each stands beside the pattern."""
    assert selection.covers("wheel", "main", "six", WHEELS[0]) is covered


@pytest.mark.parametrize(
    ("wanted", "filename", "same"),
    [
        ("1.0", "six-1.0.0-py3-none-any.whl", True),
        ("1.0.0", "six-1.tar.gz", True),
        ("v1.0", "six-1.0.zip", True),
        ("1.0-1", "six-1.0.post1-py3-none-any.whl", True),
        ("1.0.post1", "six-1.0_1-py3-none-any.whl", True),
        ("1.0+a.1", "six-1.0+a.1-py3-none-any.whl", True),
        ("1.0+a.1", "six-1.0+a_1-py3-none-any.whl", True),
        ("1.0", "six-1.0+a.1-py3-none-any.whl", False),
        ("2004a", "six-2004a.tar.gz", True),
        ("dev-r1", "six-dev-r1.tar.gz", True),
        ("dev-r1", "six-dev-r2.tar.gz", False),
        ("1.0", "six-dev-r2.tar.gz", False),
        ("dev", "six-1.0.tar.gz", False),
        ("1.0", "other-1.0.tar.gz", False),
        ("1.0", None, False),
    ],
)
def test_versions_are_compared_as_versions(wanted: str, filename: str | None, same: bool) -> None:
    """PEP 440 where both are versions, their texts elsewhere; what has none is no version's."""
    assert Selection(version=wanted).covers("sdist", "main", "six", filename) is same


@pytest.mark.parametrize(
    ("filename", "project", "version"),
    [
        ("six-1.16.0-py2.py3-none-any.whl", "six", "1.16.0"),
        ("six-1.16.0-py2.py3-none-any.whl.metadata", "six", "1.16.0"),
        ("docopt-0.6.2-1build-py3-none-any.whl", "docopt", "0.6.2"),
        ("six-1.0.whl", "six", None),
        ("nothing.whl", "nothing", None),
        ("six-1.0.tar.gz", "six", "1.0"),
        ("six-1.0.TAR.BZ2", "six", "1.0"),
        ("six-1.0.tar.gz.metadata", "six", "1.0"),
        ("zope.interface-5.0.zip", "zope-interface", "5.0"),
        ("a-b-1.0-2.tar.gz", "a-b", "1.0-2"),
        ("a-b-1.0.tar.gz", "a", "b-1.0"),
        ("six-1.0-py2.7.egg", "six", "1.0"),
        ("six-1.0-py2.7-linux-x86_64.egg", "six", "1.0"),
        ("six.tar.gz", "six", None),
        ("six-.tar.gz", "six", None),
        ("other-1.0.tar.gz", "six", None),
        ("", "", None),
        # Of no project: not looked for, in a name as long as a request line.
        ("-1.0.tar.gz", "", None),
        (None, "six", None),
    ],
)
def test_the_version_in_a_name(filename: str | None, project: str, version: str | None) -> None:
    """A wheel's is its second word; an sdist's is what follows its project, however that is spelled."""
    assert version_of(filename, project) == version


@given(st.sampled_from(["six", "zope-interface", "a-b-c", "six-1-0"]), st.text("a1.-_+", max_size=8), st.integers(0, 2))
def test_the_spelling_of_a_project_changes_no_version(project: str, version: str, ending: int) -> None:
    """What is seen at once, and what is looked for word by word, are one."""
    name = f"{project}-{version}{('.tar.gz', '.zip', '.egg')[ending]}"
    assert version_of(name, project) == version_of(name.replace(project, project.upper(), 1), project)


@pytest.mark.parametrize(
    ("filename", "kind"),
    [("six-1.0-py3-none-any.whl", "wheel"), ("SIX.WHL", "wheel"), ("six-1.0.tar.gz", "sdist"), ("six.exe", "sdist")],
)
def test_whatever_is_no_wheel_is_an_sdist(filename: str, kind: Kind) -> None:
    """As in the Simple API; case does not matter to that."""
    assert kind_of(filename) == kind


def test_few_patterns_are_remembered() -> None:
    """A client may make up as many as it likes; the standard library would keep the last 32,768, 12 KB each."""
    for number in range(patterns.REMEMBERED + 50):
        assert Selection(f"six-{number}[a-z]").covers("wheel", "main", "six", f"six-{number}a.whl")
    assert patterns._glob.cache_info().currsize == patterns.REMEMBERED


@pytest.mark.parametrize(
    ("pattern", "rest", "covered"),
    [
        ("*", "", True),
        ("*", "a/", True),
        ("cpython-3.12*", "20240107/cpython-3.12.1%2B20240107.tar.zst?mirror=1", True),
        ("cpython-3.12.1+20240107.tar.zst", "20240107/cpython-3.12.1%2B20240107.tar.zst", True),
        ("cpython-3.12.1", "20240107/cpython-3.12.1%2B20240107.tar.zst", False),
        ("Cpython*", "cpython-3.12.1.tar.gz", False),
        ("20240107*", "20240107/cpython.tar.gz", False),
        ("*.gz", "a/?x.gz", False),
        ("a", "a/", False),
        ("?*", "", False),
    ],
)
def test_what_a_mount_answered_is_chosen_by_the_name_of_its_file(pattern: str, rest: str, covered: bool) -> None:
    """A plain glob over the decoded last segment; what has none goes with everything, or with its mount."""
    assert Selection(pattern).covers("mount", "builds", "", rest) == covered
    assert Selection(pattern, index="builds", kinds=MOUNTS).covers("mount", "builds", "", rest) == covered
    assert not Selection(pattern, index="other").covers("mount", "builds", "", rest)
    assert not Selection(pattern, project="cpython").covers("mount", "builds", "", rest)
    assert not Selection(pattern, kinds=FILES | RESPONSES).covers("mount", "builds", "", rest)
