"""What int8 is asked for with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Int8Request:
    """What sets the ranges and what judges; see `read_material`. threads: None for all cores."""

    images: Path
    labels: Path | None = None
    calibration: int = 32
    judged: int = 100
    threads: int | None = None
