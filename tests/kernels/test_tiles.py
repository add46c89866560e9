"""Tile sizes: starting values, measured files, candidates; none of it needs torch or Triton."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from autosam_deploy.errors import UsageError
from autosam_deploy.kernels.tiles import SHARED_BYTES, Tiles, candidates, load_tiles, tiles_for

ROW = {
    "kind": "grid",
    "width": 64,
    "block_m": 64,
    "block_n": 64,
    "num_warps": 4,
    "num_stages": 2,
}


def write(folder: Path, text: Any) -> Path:
    path = folder / "tiles.json"
    path.write_text(text if isinstance(text, str) else json.dumps(text), "utf-8")
    return path


def file_of(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"schema_version": 1, "devices": {"NVIDIA A100": list(rows)}}


@pytest.mark.parametrize("capability", [0, 80, 86, 89, 90, 100, 120, 121])
@pytest.mark.parametrize("width", [8, 64, 80, 128])
def test_there_is_a_starting_value_for_everything(capability: int, width: int) -> None:
    for kind in ("grid", "window", "bias"):
        tiles = tiles_for(capability, kind, width)
        assert tiles.block_m >= 16 * tiles.num_warps


def test_wide_heads_have_fewer_stages() -> None:
    assert tiles_for(80, "grid", 80).num_stages < tiles_for(80, "grid", 64).num_stages


def test_float32_has_tiles_of_its_own() -> None:
    assert tiles_for(80, "grid", 64, itemsize=4).block_m < tiles_for(80, "grid", 64).block_m


def test_measured_tiles_come_first(tmp_path: Path) -> None:
    measured = load_tiles(write(tmp_path, file_of(ROW, {**ROW, "kind": "window"})))
    assert len(measured) == 2
    found = tiles_for(80, "grid", 64, device="NVIDIA A100", measured=measured)
    assert found == Tiles(64, 64, 4, 2)
    for device, width in (("NVIDIA A100", 80), ("NVIDIA L4", 64), (None, 64)):
        found = tiles_for(80, "grid", width, device=device, measured=measured)
        assert found == tiles_for(80, "grid", width)


def test_packaged_choices_are_valid() -> None:
    assert isinstance(load_tiles(), dict)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "are not valid; got the file: Invalid JSON"),
        ({"schema_version": 2, "devices": {}}, "schema_version: Input should be 1"),
        (file_of({**ROW, "speed": 1}), "speed: Extra inputs are not permitted"),
        (file_of({**ROW, "kind": "global"}), "kind: Input should be 'grid', 'window' or 'bias'"),
        (file_of({**ROW, "block_m": "64"}), "block_m: Input should be a valid integer"),
        (file_of({**ROW, "block_m": 48}), "invalid block_m; got 48; expected one of 16, 32"),
        (file_of({**ROW, "num_warps": 3}), "invalid num_warps; got 3"),
        (file_of(ROW, ROW), "name a choice twice; got grid, width 64, of 'NVIDIA A100'"),
    ],
    ids=["json", "schema", "unknown", "kind", "text", "block", "warps", "twice"],
)
def test_invalid_files(tmp_path: Path, text: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_tiles(write(tmp_path, text))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.json' cannot be read"):
        load_tiles(tmp_path / "none.json")


@pytest.mark.parametrize("value", [True, 64.0, 0, -16, None])
def test_invalid_tiles(value: Any) -> None:
    with pytest.raises(UsageError, match="invalid block_n"):
        Tiles(64, value, 4, 2)


def test_unknown_kind_and_old_gpu() -> None:
    with pytest.raises(UsageError, match="no such kind of tiles; got 'all'"):
        tiles_for(80, "all", 64)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no such kind of tiles; got 'all'"):
        list(candidates("all", 64))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="got capability 75; expected 80 or newer"):
        tiles_for(75, "grid", 64)


@pytest.mark.parametrize("width", [64, 80])
def test_candidates_fit_and_hold_the_starting_values(width: int) -> None:
    for kind in ("grid", "window", "bias"):
        found = list(candidates(kind, width))
        assert len(found) == len(set(found)) > 5
        for capability in (80, 90, 120):
            assert tiles_for(capability, kind, width) in found
        for tiles in found:
            assert tiles.block_m >= 16 * tiles.num_warps
            held = 4 * width * tiles.block_n * max(1, tiles.num_stages - 1)
            assert kind == "bias" or held <= SHARED_BYTES


def test_needs_neither_torch_nor_triton() -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['triton'] = None\n"
        "import autosam_deploy.kernels.tiles, autosam_deploy.kernels.relpos_plan\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
