"""Peak memory of a whole volume, in a process of its own: one batch beside volume and labels."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from autosam_deploy.spec import HeadKind

#: What a batch may take beyond the one that ran before: the allocators' own granularity.
SLACK_MIB = 24

SCRIPT = """
import sys
import numpy as np
from autosam_deploy.runtime.engine import Engine
from autosam_deploy.volumes.volume import Geometry, Volume

def peak():
    line = next(l for l in open("/proc/self/status") if l.startswith("VmHWM"))
    return int(line.split()[1]) / 1024

bundle, dtype, axis, skip = sys.argv[1:]
unit = Geometry((1.0,) * 3, (0.0,) * 3, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
engine = Engine.open(bundle, device="cpu", threads=1)
shape = {"k": (1000, 256, 256), "i": (256, 256, 1000)}[axis]
array = np.zeros(shape, dtype)
slices = np.moveaxis(array, {"k": 0, "i": 2}[axis], 0)
# Pages exist when they are written to: the volume is in the baseline.
slices[:, ::2] = 100
slices[::2, ::3] = 7
# Two batches, since an allocator may keep one run's memory beside that of the next.
for _ in range(2):
    engine.labels(slices[:8])
before = peak()
found = engine.segment(Volume(array, unit, "big"), axis=axis, batch=8, skip_flat=skip == "True")
sys.stdout.write(f"{peak() - before - found.array.nbytes / 2**20:.1f} {found.array.shape}")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads its peak from /proc")
@pytest.mark.parametrize(
    ("dtype", "axis", "skip"),
    [("int16", "k", False), ("int16", "i", True), ("float32", "k", False)],
)
def test_a_volume_of_1000_slices(
    toy_bundle: Callable[..., Path], dtype: str, axis: str, skip: bool
) -> None:
    """As float32 the volume would take 250 MiB, its labels turned round 62 MiB."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(toy_bundle()), dtype, axis, str(skip)],
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=100,
    )
    assert done.stderr == ""
    extra, shape = done.stdout.split(" ", 1)
    assert shape == str((1000, 256, 256) if axis == "k" else (256, 256, 1000))
    assert float(extra) < SLACK_MIB


@pytest.mark.skipif(sys.platform != "linux", reason="reads its peak from /proc")
def test_a_real_model(exported: Callable[[HeadKind], Path]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(exported("linear")), "int16", "k", "False"],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.stderr == ""
    assert float(done.stdout.split(" ", 1)[0]) < SLACK_MIB
