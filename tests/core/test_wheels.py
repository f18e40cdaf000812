"""Wheels by name: which file is one, and which member of it is its core metadata."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.wheels import is_metadata_of, is_wheel

PLAIN = "Foo_Bar-1.0.0-py3-none-any.whl"


def test_which_files_are_wheels() -> None:
    """By the end of their name, however that is written."""
    assert [is_wheel(each) for each in (PLAIN, "a.WHL", "a.tar.gz", "a.whl.zip")] == [True, True, False, False]


@pytest.mark.parametrize(
    ("member", "filename"),
    [
        ("foo_bar-1.0.0.dist-info/METADATA", PLAIN),
        ("Foo.Bar-1.0.dist-info/METADATA", PLAIN),
        ("foo-bar-1.0.0.dist-info/METADATA", PLAIN),
        ("a-1.0+local.1.dist-info/METADATA", "a-1.0+local_1-1-py3-none-any.whl"),
        ("a-1.0.0b1.dist-info/METADATA", "a-1.0.0.beta_1-py3-none-any.whl"),
        ("a-2004D.dist-info/METADATA", "a-2004d-py3-none-any.whl"),
        ("a-1.dist-info/METADATA", "a-1-py3-none-any-variant.whl"),
    ],
)
def test_its_own(member: str, filename: str) -> None:
    """The same project and the same version, in any spelling."""
    assert is_metadata_of(member, filename)


@pytest.mark.parametrize(
    "member",
    [
        "METADATA",
        "foo_bar-1.0.0.dist-info",
        "foo_bar-1.0.0.dist-info/",
        "foo_bar-1.0.0.dist-info/METADATA.txt",
        "foo_bar-1.0.0.dist-info/metadata",
        "foo_bar-1.0.0.dist-info/deeper/METADATA",
        "vendored/foo_bar-1.0.0.dist-info/METADATA",
        "/foo_bar-1.0.0.dist-info/METADATA",
        "foo_bar-1.0.0.egg-info/METADATA",
        "foo_bar-1.0.1.dist-info/METADATA",
        "foo_baz-1.0.0.dist-info/METADATA",
        "foo_bar.dist-info/METADATA",
        "-1.0.0.dist-info/METADATA",
        ".dist-info/METADATA",
    ],
)
def test_not_its_own(member: str) -> None:
    """Another place, another file, another project, another version."""
    assert not is_metadata_of(member, PLAIN)


@given(st.text(), st.text())
def test_any_names(member: str, filename: str) -> None:
    """Whatever an archive and a page say, it is a yes or a no."""
    for each in (member, f"{member}.dist-info/METADATA"):
        assert is_metadata_of(each, filename) in (True, False)
