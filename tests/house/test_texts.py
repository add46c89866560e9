"""What may not stand in a file that travels."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = {".py", ".md", ".toml", ".json", ".yml", ".yaml", ".sh", ".txt", ""}

#: Absolute paths of somebody's machine, hosts of package registries, notes without a reason.
FORBIDDEN = {
    "a path of one machine": re.compile(r"(?<![\w.])/(?:home|work|Users|root)/\w"),
    "a package registry": re.compile(r"files\.pythonhosted|pypi\.org|--(?:extra-)?index-url"),
    "a TODO without an issue": re.compile(r"\b(?:TODO|FIXME)\b(?! \(#\d+\))"),
}


def tracked() -> list[Path]:
    """Text files that are tracked, or would be if one added everything."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    return [ROOT / name for name in listed if Path(name).suffix in TEXT]


def findings(text: str) -> list[str]:
    return [what for what, pattern in FORBIDDEN.items() if pattern.search(text)]


def test_texts() -> None:
    files = tracked()
    if not files:
        pytest.skip("not a git checkout")
    wrong = {
        str(path.relative_to(ROOT)): found
        for path in files
        if path.name != Path(__file__).name
        and path.is_file()
        and (found := findings(path.read_text("utf-8")))
    }
    assert wrong == {}


@pytest.mark.parametrize(
    "text", ["see /home/anna/data", "pip install --index-url x", "# TODO later", "/root/x"]
)
def test_checker_finds_them(text: str) -> None:
    assert findings(text)


def test_checker_lets_ordinary_text_pass() -> None:
    assert findings("runs/demo and a/home/b; the root of a tree") == []
