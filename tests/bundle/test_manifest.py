from __future__ import annotations

import re

import pytest

from autosam_deploy.bundle.manifest import MEMBER_PATH, check_member_path

GOOD = (
    "model.fp32.onnx",
    "model.fp32.onnx.data",
    "golden/case_0.labels.npy",
    "engines/rtx-1.7-sm89.fp16.engine",
    "a",
    "A/b/C-1..2",
)


@pytest.mark.parametrize("path", GOOD)
def test_names_that_are_used(path: str) -> None:
    assert check_member_path(path) == path
    assert re.search(MEMBER_PATH, path)


@pytest.mark.parametrize("path", ["a" * 40 + "." * 40 + "/", "-." * 120, "a/" * 120, "." * 255])
def test_no_name_takes_long_to_check(path: str) -> None:
    """An expression that backtracks would hang here, not fail."""
    with pytest.raises(ValueError, match=r"must (stay inside|be made of)"):
        check_member_path(path)


def test_line_end_is_no_part_of_a_name() -> None:
    """`$` matches before a last line end."""
    with pytest.raises(ValueError, match="not a plain relative path"):
        check_member_path("model.onnx\n")
