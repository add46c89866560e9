from __future__ import annotations

import pytest
import torch
from torch import nn

from autosam_deploy.fused.rounding import RoundStores


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Linear(24, 48), nn.LayerNorm(48), nn.GELU(), nn.ReLU(inplace=True))
    return nn.Sequential(*layers, nn.Linear(48, 8)).eval().requires_grad_(False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_error_is_that_of_native_low_precision(network: nn.Module, dtype: torch.dtype) -> None:
    x = torch.randn(64, 24)
    truth = network(x)
    native = network.to(dtype)(x.to(dtype)).float()
    network.float()
    with RoundStores(dtype):
        emulated = network(x.to(dtype).float())
    native_error = (native - truth).abs().mean()
    emulated_error = (emulated - truth).abs().mean()
    assert emulated_error > 0
    assert 0.5 < float(emulated_error / native_error) < 2


def test_overflow_becomes_infinite() -> None:
    with RoundStores(torch.float16):
        product = torch.full((2, 2), 300.0) @ torch.full((2, 2), 300.0)
    assert torch.isinf(product).all()


def test_in_place_results_are_rounded_in_place() -> None:
    x = torch.full((3,), 1.0)
    with RoundStores(torch.float16):
        x.add_(2**-13)
    assert torch.equal(x, torch.ones(3))


def test_views_alias_their_base() -> None:
    x = torch.arange(6, dtype=torch.float32)
    with RoundStores(torch.float16):
        view = x.reshape(2, 3)
        view.mul_(2)
    assert x[5] == 10
