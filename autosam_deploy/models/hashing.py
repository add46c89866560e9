"""One hash for a set of weights, whatever file format, dtype or order they were stored in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of named weights as 64 hexadecimal digits.

    Hashed in the order of the names: name, shape, then the values as little-endian float32. A
    file that stores the same values in half precision has the hash of those rounded values.

    Args:
        state: name -> weight of any real dtype, on any device.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name]
        shape = ",".join(str(side) for side in tensor.shape)
        # The separators keep "a" + "b1" apart from "ab" + "1".
        digest.update(f"{name}\0{shape}\0".encode())
        values = tensor.detach().to("cpu", torch.float32).contiguous().numpy()
        digest.update(values.astype("<f4", copy=False).data)
    return digest.hexdigest()
