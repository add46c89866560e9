"""AutoSAM from a trained head to something a hospital can run."""

from __future__ import annotations

__version__ = "0.1.0"
