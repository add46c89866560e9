"""`autosam-export verify`: a bundle's golden slices on this machine, block by block if asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
from rich.console import Console

from autosam_deploy.bundle.manifest import Precision
from autosam_deploy.cli.shell import AutosamCommand, common_options, echo_json
from autosam_deploy.errors import ParityError
from autosam_deploy.extras import require

if TYPE_CHECKING:
    from autosam_deploy.export.checks.bisection import Bisection
    from autosam_deploy.export.checks.golden import Verification

_EXAMPLES = """
\b
Examples:
  autosam-export verify heart.autosam
  autosam-export verify heart.autosam --backend tensorrt --record
      on the GPU that an engine was built for; the result goes into the bundle
  autosam-export verify heart.autosam --precision fp16 --bisect
      which block is the first to leave PyTorch
"""


@click.command(
    "verify",
    cls=AutosamCommand,
    epilog=_EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--backend",
    default="auto",
    show_default=True,
    help="auto | onnxruntime | openvino | tensorrt | torch",
)
@click.option("--device", default="auto", show_default=True, help="auto | cpu | cuda | cuda:N")
@click.option(
    "--precision",
    type=click.Choice(("auto", *get_args(Precision))),
    default="auto",
    show_default=True,
)
@click.option("--record", is_flag=True, help="Write an engine's result into the bundle.")
@click.option(
    "--bisect",
    is_flag=True,
    help="Compare every block with PyTorch and name the first that is off; on onnxruntime, "
    "tensorrt, and openvino in fp32.",
)
@common_options
def verify_command(bundle: Path, **options: Any) -> None:
    """Check a bundle's hashes and run its golden slices on a backend; exit 2 if they differ."""
    from autosam_deploy.export.checks.golden import verify_bundle
    from autosam_deploy.export.checks.show import conclusion, show_bisection, show_verification

    if options["bisect"]:
        for module in ("torch", "segment_anything", "onnx"):
            require(module, extra="export", feature="verify --bisect")
    verification = verify_bundle(
        bundle,
        backend=options["backend"],
        device=options["device"],
        precision=options["precision"],
        record=options["record"],
    )
    quiet = options["quiet"] or options["as_json"]
    bisection = _bisect(bundle, verification, quiet=quiet) if options["bisect"] else None
    if options["as_json"]:
        found = None if bisection is None else bisection.as_dict()
        echo_json({**verification.as_dict(), "bisection": found})
    elif not options["quiet"]:
        show_verification(Console(), verification)
        if bisection is not None:
            show_bisection(Console(), bisection, golden_passed=verification.passed)
    got = f"backend {verification.info.backend} on {verification.info.device}"
    if bisection is not None:
        got += f"; {conclusion(bisection, golden_passed=verification.passed)}"
    if not verification.passed or (bisection is not None and not bisection.passed):
        raise ParityError(
            f"'{bundle}' does not give its golden results here",
            got=got,
            todo="compare versions with those in its parity record"
            if options["bisect"]
            else "add --bisect to see where it begins",
        )


def _bisect(bundle: Path, verification: Verification, *, quiet: bool) -> Bisection:
    """Bisect what the verification ran: the same backend, device and precision."""
    from autosam_deploy.bundle.reader import Bundle
    from autosam_deploy.export.checks.bisection import bisect_bundle
    from autosam_deploy.export.steps import Steps

    info = verification.info
    return bisect_bundle(
        Bundle.open(bundle, verify=False),
        backend=info.backend,
        device=info.device,
        precision=info.precision,
        steps=Steps(Console(stderr=True, quiet=quiet)),
    )
