"""What TensorRT-RTX makes of every way to write the segmenter: memory, layers, size. No GPU needed.

    python -m autosam_deploy.export.engines.survey --encoder vit_b --head autosam -o survey.json

Weights are random: what a builder makes of a graph does not depend on them. Each build runs in a
process of its own with a time limit, since some graphs keep the builder busy for very long.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from autosam_deploy.cli.shell import AutosamCommand, common_options, echo_json
from autosam_deploy.encoders import ENCODERS
from autosam_deploy.errors import UsageError
from autosam_deploy.export.engines.add import check_request
from autosam_deploy.export.engines.request import EngineRequest
from autosam_deploy.files import write_json
from autosam_deploy.spec import HEAD_KINDS, SLICES, HeadKind, plain_head, slice_sizes

#: The peer: PyTorch's exporter on the reference segmenter in half precision, nothing rearranged.
PLAIN = "plain"
ROWS = tuple(
    (lowering, precision)
    for precision in ("fp16", "fp32")
    for lowering in (PLAIN, "explicit", "masked", "augmented")
)


def write_graph(
    path: Path, *, encoder: str, head: HeadKind, num_classes: int, lowering: str, precision: str
) -> None:
    """Write one graph of a segmenter with random weights."""
    from autosam_deploy.export.graph import default_opset, export_onnx
    from autosam_deploy.fused.precision import apply_precision, plan_precision
    from autosam_deploy.fused.segmenter import fuse
    from autosam_deploy.fused.tracing import write_onnx
    from autosam_deploy.models.segmenter import seeded_segmenter
    from autosam_deploy.spec import ModelSpec, default_classes

    spec = ModelSpec(
        encoder=ENCODERS[encoder],
        head=plain_head(head, num_classes),
        classes=default_classes(num_classes),
    )
    segmenter = seeded_segmenter(spec, seed=0)
    if lowering == PLAIN:
        import torch
        from torch import nn

        class Whole(nn.Module):
            """Labels and logits, as the contract has them."""

            def forward(self, slices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                """Run."""
                logits = segmenter(slices).float()
                return logits.argmax(dim=1).to(torch.uint8), logits

        segmenter.to(torch.float16 if precision == "fp16" else torch.float32).eval()
        whole = Whole()
        whole.segmenter = segmenter
        height, width = spec.encoder.image_size
        write_onnx(
            whole.eval().requires_grad_(False),
            path,
            example=torch.rand(2, 1, height - 3, width - 5),
            source=spec.input_tensor,
            outputs=spec.output_tensors,
            opset=20,
        )
        return
    fused = fuse(segmenter, lowering=lowering)
    if precision == "fp16":
        fused = apply_precision(fused, plan_precision(fused, {}, precision="fp16"))
    export_onnx(fused, path, opset=default_opset(lowering))


def build_one(path: Path, *, batch: int, side: int, sm: int) -> dict[str, Any]:
    """Build one engine of one batch and slice size and return what the builder said."""
    import time

    from autosam_deploy.export.engines.build import activation_bytes, configure
    from autosam_deploy.export.engines.network import inspect_network, parse_graph
    from autosam_deploy.runtime.nvidia.families import load_family, make_logger

    module = load_family("tensorrt_rtx")
    logger = make_logger(module)
    builder = module.Builder(logger)
    network, _parser = parse_graph(module, builder=builder, logger=logger, path=path)
    facts = inspect_network(network, scores=frozenset())
    profile = {axis: (size,) * 3 for axis, size in slice_sizes((batch, 1, side, side)).items()}
    config = configure(module, builder, source=SLICES, profile=profile, capability=sm)
    start = time.perf_counter()
    plan = builder.build_serialized_network(network, config)
    found: dict[str, Any] = {
        "layers": facts.layers,
        "low_share": round(facts.low_share, 4),
        "attentions": facts.attentions,
        "seconds": round(time.perf_counter() - start, 1),
    }
    if plan is None:
        return {**found, "problem": logger.errors()[:300] or "no engine"}
    return {
        **found,
        "activation_bytes": activation_bytes(logger.since()),
        "plan_bytes": len(bytes(plan)),
    }


def survey_row(path: Path, *, batch: int, side: int, sm: int, limit_s: float) -> dict[str, Any]:
    """Run `build_one` in a process of its own."""
    arguments = [str(path), str(batch), str(side), str(sm)]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "autosam_deploy.export.engines.survey", "one", *arguments],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"problem": f"no engine within {limit_s:.0f} s"}
    if done.returncode:
        return {"problem": (done.stderr.strip().splitlines() or ["died"])[-1][:300]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@click.command(cls=AutosamCommand, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--encoder", type=click.Choice(sorted(ENCODERS)), default="vit_b", show_default=True)
@click.option("--head", type=click.Choice(HEAD_KINDS), default="autosam", show_default=True)
@click.option("--num-classes", type=click.IntRange(2, 255), default=4, show_default=True)
@click.option("--batch", default="1,8", show_default=True, help="Batches by comma.")
@click.option("--side", type=int, default=1024, show_default=True, help="Of slices, in pixels.")
@click.option("--sm", type=int, default=89, show_default=True, help="GPU to build for.")
@click.option("--only", help="Rows by comma, such as augmented/fp16.")
@click.option("--limit", type=float, default=120, show_default=True, help="Seconds for a build.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="JSON file to write.")
@common_options
def main(**options: Any) -> None:
    """Build engines from every way to write the segmenter and print what the builder says."""
    if not all(part.isdecimal() and int(part) for part in options["batch"].split(",")):
        raise UsageError("--batch", got=repr(options["batch"]), expected="numbers by comma")
    wanted = None if options["only"] is None else options["only"].split(",")
    rows = [row for row in ROWS if wanted is None or "/".join(row) in wanted]
    if not rows:
        names = ", ".join("/".join(row) for row in ROWS)
        raise UsageError("--only", got=repr(options["only"]), expected=f"some of {names}")
    check_request(EngineRequest(capabilities=(options["sm"],)))
    console = Console(stderr=True, quiet=options["quiet"] or options["as_json"])
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for lowering, precision in rows:
            path = Path(folder) / f"{lowering}.{precision}.onnx"
            with console.status(f"{lowering} {precision}: writing the graph ..."):
                write_graph(
                    path,
                    encoder=options["encoder"],
                    head=options["head"],
                    num_classes=options["num_classes"],
                    lowering=lowering,
                    precision=precision,
                )
            for batch in map(int, options["batch"].split(",")):
                with console.status(f"{lowering} {precision}, batch {batch}: building ..."):
                    found = survey_row(
                        path,
                        batch=batch,
                        side=options["side"],
                        sm=options["sm"],
                        limit_s=options["limit"],
                    )
                results.append(
                    {"lowering": lowering, "precision": precision, "batch": batch, **found}
                )
                console.print(_line(results[-1]), highlight=False, markup=False)
            path.unlink()
    kept = ("encoder", "head", "num_classes", "side", "sm", "limit")
    value = {**{name: options[name] for name in kept}, "rows": results}
    if options["output"] is not None:
        write_json(options["output"], value)
    if options["as_json"]:
        echo_json(value)
    elif not options["quiet"]:
        Console().print(_table(results))


def _line(row: dict[str, Any]) -> str:
    name = f"{row['lowering']} {row['precision']}, batch {row['batch']}"
    return f"  {name:<28} {row.get('problem') or _megabytes(row)}"


def _megabytes(row: dict[str, Any]) -> str:
    count = row.get("activation_bytes")
    return "-" if count is None else f"{count / 1e6 / row['batch']:.1f} MB a slice"


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="TensorRT-RTX, activations at build time", title_justify="left")
    for column in ("lowering", "precision", "batch", "activations", "layers", "plan MB", "build s"):
        table.add_column(column)
    for row in rows:
        table.add_row(
            row["lowering"],
            row["precision"],
            str(row["batch"]),
            row.get("problem", "")[:40] or _megabytes(row),
            str(row.get("layers", "-")),
            f"{row['plan_bytes'] / 1e6:.0f}" if "plan_bytes" in row else "-",
            str(row.get("seconds", "-")),
        )
    return table


if __name__ == "__main__":
    if sys.argv[1:2] == ["one"]:
        # The child of `survey_row`: one build, one line of JSON.
        graph, *numbers = sys.argv[2:]
        batch_, side_, sm_ = map(int, numbers)
        click.echo(json.dumps(build_one(Path(graph), batch=batch_, side=side_, sm=sm_)))
    else:
        main()
