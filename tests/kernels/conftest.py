"""Where kernels are tested: on the GPU if there is one, else in Triton's interpreter on the CPU.

`tests/conftest.py` sets `TRITON_INTERPRET`, since it must be said before Triton is first imported
and a test of another room may do that in the same process.
"""

from __future__ import annotations

import pytest
import torch

from autosam_deploy.kernels.launch import interpreted


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The device that kernels run on here."""
    pytest.importorskip("triton")
    return torch.device("cpu" if interpreted() else "cuda")
