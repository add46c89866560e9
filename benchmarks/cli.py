"""`autosam-bench`: measurements, each a command of its own."""

from __future__ import annotations

import click

from autosam_deploy.benchmarks.efficiency.command import label_efficiency
from autosam_deploy.benchmarks.training_cost import main as training_cost
from autosam_deploy.cli.shell import AutosamGroup


@click.group(cls=AutosamGroup, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Measure what the project promises."""


for _command in (label_efficiency, training_cost):
    main.add_command(_command)
