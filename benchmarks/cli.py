"""`autosam-bench`: measurements, each a command of its own; `run` is the one that needs no name."""

from __future__ import annotations

import click

from autosam_deploy.benchmarks.bundles import main as bundles
from autosam_deploy.benchmarks.command import run
from autosam_deploy.benchmarks.efficiency.command import label_efficiency
from autosam_deploy.benchmarks.report.command import report
from autosam_deploy.benchmarks.training_cost import main as training_cost
from autosam_deploy.cli.shell import AutosamGroup

_HELP = ("-h", "--help")
_EPILOG = """
\b
`run` may be left out: autosam-bench heart.autosam --peers
A bundle that is named like a command is written with its folder: ./report
"""


class _RunByDefault(AutosamGroup):
    """A group that takes words which are none of its commands for arguments of `run`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the name of the default command in front where no command is named."""
        if not args or (args[0] not in self.commands and args[0] not in _HELP):
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_RunByDefault, epilog=_EPILOG, context_settings={"help_option_names": list(_HELP)})
def main() -> None:
    """Measure what the project promises: agreement, time and memory of bundles, and training."""


for _command in (run, bundles, report, label_efficiency, training_cost):
    main.add_command(_command)
