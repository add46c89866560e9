from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import BundleError
from autosam_deploy.runtime.engine import Engine
from autosam_deploy.runtime.selftest import read_golden, run_golden


def test_equal_outputs(toy_bundle: Callable[..., Path]) -> None:
    with Engine.open(toy_bundle(), device="cpu", threads=1) as engine:
        (result,) = run_golden(engine)
    assert result.name == "case_0"
    assert result.labels_equal
    assert result.max_logit_difference is not None
    assert result.max_logit_difference < 1e-6
    assert result.shape == (2, 1, 5, 7)
    assert result.largest_wrong_margin == 0


def test_other_outputs_are_seen(toy_bundle: Callable[..., Path]) -> None:
    bundle = Bundle.open(toy_bundle())
    for name in ("labels", "logits"):
        file = bundle.path / "golden" / f"case_0.{name}.npy"
        array = np.load(file)
        array[..., 0, 0] += 2
        np.save(file, array)
    with Engine.open(bundle, device="cpu", threads=1) as engine:
        (result,) = run_golden(engine)
    assert not result.labels_equal
    assert result.agreement == pytest.approx(1 - 2 / 70)
    assert result.max_logit_difference == pytest.approx(2)
    slices = read_golden(bundle, bundle.manifest.golden[0]).slices
    # The toy's logits at the altered pixels: -x, 0, x - 2.
    top = np.sort([(-x, 0.0, x - 2) for x in slices[:, 0, 0, 0]], axis=1)
    assert result.largest_wrong_margin == pytest.approx((top[:, 2] - top[:, 1]).max())


@pytest.mark.parametrize("outputs", [("labels",), ("logits",)])
def test_one_output_is_enough(toy_bundle: Callable[..., Path], outputs: tuple[str, ...]) -> None:
    with Engine.open(toy_bundle(outputs=outputs), device="cpu", threads=1) as engine:
        (result,) = run_golden(engine)
    assert result.labels_equal
    assert (result.max_logit_difference is None) == (outputs == ("labels",))


def array_file(array: np.ndarray) -> Callable[[Path], None]:
    return lambda path: np.save(path, array)


def claims_terabytes(path: Path) -> None:
    header = str({"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 1, 5, 7)})
    raw = header.encode().ljust(117) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(raw).to_bytes(2, "little") + raw)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("slices", lambda path: path.write_bytes(b""), "cannot be read"),
        ("slices", lambda path: path.write_text("not an array"), "cannot be read"),
        ("slices", claims_terabytes, "cannot be read"),
        ("slices", array_file(np.array([{}], dtype=object)), "cannot be read"),
        ("slices", array_file(np.zeros((2, 1, 5, 7))), r"got float64 .*; expected float32"),
        ("slices", array_file(np.zeros((2, 5, 7), np.float32)), r"expected \(B, 1, H, W\)"),
        ("labels", array_file(np.zeros((2, 5, 6), np.uint8)), r"expected \(2, 5, 7\)"),
        ("labels", array_file(np.zeros((2, 5, 7), np.int64)), "got int64 .*; expected uint8"),
        ("logits", array_file(np.zeros((2, 1, 5, 7), np.float32)), r"expected \(2, 3, 5, 7\)"),
    ],
)
def test_bad_golden_files(
    toy_bundle: Callable[..., Path], name: str, write: Callable[[Path], None], message: str
) -> None:
    bundle = Bundle.open(toy_bundle())
    write(bundle.path / "golden" / f"case_0.{name}.npy")
    with pytest.raises(BundleError, match=rf"golden file 'golden/case_0.{name}.npy'.*{message}"):
        read_golden(bundle, bundle.manifest.golden[0])
