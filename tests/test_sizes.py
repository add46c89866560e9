from __future__ import annotations

import pytest

from autosam_deploy.errors import UsageError
from autosam_deploy.sizes import parse_bytes, show_bytes


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("20GB", 2e10),
        ("500 MB", 5e8),
        ("1.5gib", 1.5 * 2**30),
        ("12345", 12345),
        ("2GiB", 2 << 30),
        ("3 kB", 3000),
    ],
)
def test_sizes(text: str, count: float) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0", "many", "inf", "nan"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match=r"a size; got .*; expected a number of bytes"):
        parse_bytes(text)
    with pytest.raises(UsageError, match=r"--workspace; got .*; expected a number of bytes"):
        parse_bytes(text, "--workspace")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (305e6, "305 MB"), (2.5e12, "2.5 TB")],
)
def test_bytes_are_readable(count: float, text: str) -> None:
    assert show_bytes(count) == text
