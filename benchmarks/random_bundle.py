"""A bundle of random weights without any graph: for speed alone, where there is no time to export.

It holds what peers and the `torch` backend run, golden slices, and a record that says that nothing
but the weights themselves was compared.
"""

from __future__ import annotations

import shlex
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autosam_deploy.bundle.manifest import (
    SCHEMA_VERSION,
    UNTRAINED_USE,
    Artefact,
    Manifest,
    Provenance,
)
from autosam_deploy.bundle.writer import create_bundle
from autosam_deploy.encoders import EncoderSpec
from autosam_deploy.files import write_json
from autosam_deploy.parity import ParityRecord, compare, reference_of
from autosam_deploy.spec import HeadSpec
from autosam_deploy.volumes.phantom import make_phantom

_SIDE = 96
Logits = NDArray[np.float32]


def write_random_bundle(
    path: Path, encoder: EncoderSpec, head: HeadSpec, *, seed: int = 0, device: str = "cpu"
) -> None:
    """Write a bundle of seeded random weights.

    Args:
        path: the bundle's folder.
        encoder: of the segmenter.
        head: of the segmenter.
        seed: of the weights.
        device: of torch, where golden logits are computed.

    Raises:
        OutputError: the folder cannot be written.
    """
    from autosam_deploy.models.assemble import untrained
    from autosam_deploy.models.checkpoints import write_segmenter

    assembled = untrained(encoder, head, seed=seed)
    spec = assembled.spec
    phantom, _ = make_phantom(900, shape=(3, _SIDE, _SIDE))
    slices = phantom.array[1:2, None].astype(np.float32)
    with create_bundle(path) as writer:
        weights = writer.folder / "weights.safetensors"
        write_segmenter(weights, assembled.segmenter.state_dict(), assembled.info())
        logits, exact = _logits(assembled.segmenter, slices, device)
        versions = {name: version(name) for name in ("autosam-deploy", "torch")}
        labels = logits.argmax(axis=1).astype(np.uint8)
        golden = writer.golden("case_0", slices=slices, labels=labels, logits=logits)
        comparison = compare(
            [{"labels": labels, "logits": logits}],
            [logits],
            artefact=weights.name,
            precision="fp32",
            reference=reference_of("float64", [logits], [exact]),
        )
        record = ParityRecord(
            verdict="latency-only",
            inputs="a phantom slice; the weights with themselves, since there is no graph",
            shapes=(slices.shape,),
            comparisons=(comparison,),
            versions=versions,
        )
        write_json(writer.folder / "parity.json", record.model_dump(mode="json"))
        writer.finish(
            Manifest(
                schema_version=SCHEMA_VERSION,
                name=path.name.removesuffix(".autosam"),
                trained=False,
                intended_use=UNTRAINED_USE,
                model=spec,
                inputs=(spec.input_tensor,),
                outputs=spec.output_tensors,
                artefacts=(
                    Artefact(kind="weights", precision="fp32", file=writer.ref(weights.name)),
                ),
                golden=(golden,),
                parity=writer.ref("parity.json"),
                provenance=Provenance(
                    created=datetime.now(UTC).isoformat(timespec="seconds"),
                    command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
                    versions=versions,
                    sources={},
                    encoder_sha256=assembled.encoder_sha256,
                ),
            )
        )


def _logits(segmenter: Any, slices: Logits, device: str) -> tuple[Logits, NDArray[np.float64]]:
    """Return logits in float32 and in float64."""
    import torch

    torch.backends.cudnn.allow_tf32 = False
    with torch.inference_mode():
        batch = torch.from_numpy(slices).to(device)
        found = segmenter.to(device)(batch).cpu().numpy()
        exact = segmenter.double()(batch.double()).cpu().numpy()
    return found, exact
