"""Weights files: recognise every known layout, read it strictly, write our own."""

from autosam_deploy.models.checkpoints.checkpoint import Checkpoint, Layout
from autosam_deploy.models.checkpoints.info import HeadInfo
from autosam_deploy.models.checkpoints.read import read_checkpoint
from autosam_deploy.models.checkpoints.write import write_encoder, write_head, write_segmenter

__all__ = [
    "Checkpoint",
    "HeadInfo",
    "Layout",
    "read_checkpoint",
    "write_encoder",
    "write_head",
    "write_segmenter",
]
