"""Where a head is trained: the device that was asked for, or an error that lists what is there."""

from __future__ import annotations

import torch

from autosam_deploy.errors import DeviceUnavailableError


def choose_device(text: str) -> tuple[torch.device, str]:
    """Return the device and why it was chosen.

    Args:
        text: `auto` (a CUDA device if there is one), `cpu`, `cuda` or `cuda:N`.

    Raises:
        DeviceUnavailableError: unknown, or not there.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    there = ", ".join(["cpu", *(f"cuda:{index}" for index in range(count))])
    if text == "auto":
        if count:
            return torch.device("cuda:0"), "a CUDA device is there"
        return torch.device("cpu"), "no CUDA device"
    kind, _, index = text.partition(":")
    if text == "cpu":
        return torch.device("cpu"), "asked for"
    if kind != "cuda" or (index and not index.isdecimal()) or text == "cuda:":
        raise DeviceUnavailableError(
            "unknown device", got=repr(text), expected="auto, cpu, cuda or cuda:N"
        )
    number = int(index or 0)
    if number >= count:
        raise DeviceUnavailableError(
            f"device 'cuda:{number}' is not there",
            got=there,
            expected=f"at least {number + 1} CUDA devices",
            todo="check nvidia-smi, or ask for --device cpu",
        )
    return torch.device("cuda", number), "asked for"
