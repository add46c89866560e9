from __future__ import annotations

import pytest

from autosam_deploy.errors import ExportError
from autosam_deploy.export.lowering import float_lowering


@pytest.mark.parametrize(
    ("asked", "opset", "engine", "chosen"),
    [
        ("auto", None, False, "masked"),
        ("auto", 23, False, "masked"),
        ("auto", 20, False, "explicit"),
        ("auto", None, True, "explicit"),
        ("explicit", 23, False, "explicit"),
        ("augmented", None, True, "augmented"),
    ],
)
def test_choice(asked: str, opset: int | None, engine: bool, chosen: str) -> None:
    assert float_lowering(asked, opset=opset, engine=engine) == chosen


def test_refusals() -> None:
    with pytest.raises(ExportError, match=r"'masked' cannot be written .*got 20; expected 23"):
        float_lowering("masked", opset=20, engine=False)
    with pytest.raises(ExportError, match=r"got 24; expected 23\.\.23"):
        float_lowering("auto", opset=24, engine=False)
