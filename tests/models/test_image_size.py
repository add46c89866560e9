from __future__ import annotations

import subprocess
import sys

import pytest

from autosam_deploy.encoders import ENCODERS, EncoderSpec
from autosam_deploy.errors import SpecError, UsageError
from autosam_deploy.models.image_size import at_image_size, parse_image_size, show_image_size


@pytest.mark.parametrize(
    ("text", "size"), [("512", (512, 512)), (" 448x672 ", (448, 672)), ("64X32", (64, 32))]
)
def test_sizes_as_people_write_them(text: str, size: tuple[int, int]) -> None:
    assert parse_image_size(text) == size
    assert parse_image_size(show_image_size(size)) == size


@pytest.mark.parametrize(
    "text", ["", "big", "512x", "x512", "1x2x3", "-512", "0", "5.5", "512,256"]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match=r"--side; got '.*'; expected N or HxW in pixels"):
        parse_image_size(text, "--side")


def test_sizes_that_an_encoder_takes(tiny_encoder: EncoderSpec) -> None:
    assert at_image_size(tiny_encoder, (32, 40)).grid == (4, 5)
    assert at_image_size(ENCODERS["vit_b"], (224, 512)).grid == (14, 32)
    whole = tiny_encoder.model_copy(update={"window_size": 0})
    assert at_image_size(whole, (8, 16)).grid == (1, 2)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("vit_b", (500, 512), "got 500x512; .*multiples of 16, 224 or more.*; take 496x512"),
        ("vit_b", (512, 504), "got 512x504; .*; take 512x512"),
        ("vit_b", (208, 512), "got 208x512; .*224 or more, one window of 14 tokens; take 224x512"),
        ("vit_tiny", (100, 7), "got 100x7; .*112 or more, one window of 7 tokens; take 112x112"),
    ],
)
def test_sizes_that_it_does_not_take(name: str, size: tuple[int, int], message: str) -> None:
    with pytest.raises(SpecError, match=f"size does not suit the encoder '{name}'; {message}$"):
        at_image_size(ENCODERS[name], size)


def test_reading_a_size_loads_no_torch() -> None:
    code = (
        "import sys; from autosam_deploy.models.image_size import parse_image_size; "
        "parse_image_size('512'); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
