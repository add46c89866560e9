from __future__ import annotations

import hashlib

import torch

from autosam_deploy.models.hashing import weights_sha256

STATE = {"b": torch.tensor([[1.0, 2.0]]), "a": torch.tensor(0.5)}


def test_by_hand() -> None:
    data = b"a\0\0" + bytes.fromhex("0000003f") + b"b\0" + b"1,2\0"
    data += bytes.fromhex("0000803f") + bytes.fromhex("00000040")
    assert weights_sha256(STATE) == hashlib.sha256(data).hexdigest()


def test_order_dtype_and_memory_layout_do_not_matter() -> None:
    base = {"w": torch.arange(6.0).reshape(2, 3), "v": torch.ones(2)}
    expected = weights_sha256(base)
    assert weights_sha256(dict(reversed(base.items()))) == expected
    assert weights_sha256({k: v.double() for k, v in base.items()}) == expected
    assert weights_sha256({k: v.half() for k, v in base.items()}) == expected
    transposed = {**base, "w": base["w"].t().contiguous().t()}
    assert not transposed["w"].is_contiguous()
    assert weights_sha256(transposed) == expected


def test_values_names_and_shapes_matter() -> None:
    base = {"w": torch.arange(6.0).reshape(2, 3)}
    others = [
        {"w": torch.arange(6.0).reshape(3, 2)},
        {"w": torch.arange(6.0).reshape(2, 3) + 1e-6},
        {"v": torch.arange(6.0).reshape(2, 3)},
        {**base, "empty": torch.zeros(0)},
        {},
    ]
    hashes = [weights_sha256(state) for state in (base, *others)]
    assert len(set(hashes)) == len(hashes)


def test_parameters_of_a_module_can_be_hashed() -> None:
    linear = torch.nn.Linear(2, 2)
    assert weights_sha256(dict(linear.named_parameters())) == weights_sha256(linear.state_dict())
