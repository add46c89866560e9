"""Scores of labels: overlap and agreement, and in `surface` distances in mm."""

from autosam_deploy.metrics.overlap import Agreement, dice, label_agreement, mean_foreground

__all__ = ["Agreement", "dice", "label_agreement", "mean_foreground"]
