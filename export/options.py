"""What the options of `autosam-export` ask for: precisions, outputs, size, and the segmenter."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast

from autosam_deploy.encoders import ENCODERS
from autosam_deploy.errors import UsageError
from autosam_deploy.export.finding import BUNDLE_FOLDER, find_head
from autosam_deploy.models.image_size import ImageSize, at_image_size, parse_image_size
from autosam_deploy.spec import HeadKind, OutputName, plain_head

#: What a graph can be exported in; int8 is added to a bundle that is there.
GraphPrecision = Literal["fp32", "fp16"]


def assemble_from(options: dict[str, Any]) -> tuple[Any, Path]:
    """Return the assembled segmenter and where its bundle goes."""
    from autosam_deploy.models.assemble import assemble
    from autosam_deploy.models.checkpoints import read_checkpoint

    if options["untrained"]:
        return _untrained(options)
    given: Path | None = options["checkpoint"]
    sam: Path | None = options["sam_checkpoint"]
    output: Path | None = options["output"]
    if given is None:
        found = find_head(options["runs"], options["head"])
        given, sam, output = found.head, sam or found.sam, output or found.output
    head = read_checkpoint(given)
    kind = options["head"]
    if kind is not None and head.head is not None and head.head.kind != kind:
        raise UsageError(f"'{given}' holds another head", got=head.head.kind, expected=kind)
    assembled = assemble(
        head,
        sam=None if sam is None else read_checkpoint(sam),
        classes=_class_names(options["classes"]),
        image_size=parse_size(options["image_size"]),
        outputs=parse_outputs(options["outputs"]),
        allow_missing_pe=options["allow_missing_pe"],
    )
    fallback = options["runs"] / assembled.spec.head.kind / BUNDLE_FOLDER
    return assembled, output or fallback


def _untrained(options: dict[str, Any]) -> tuple[Any, Path]:
    from autosam_deploy.models.assemble import untrained
    from autosam_deploy.models.checkpoints import read_checkpoint

    if options["encoder"] is None or options["head"] is None:
        raise UsageError(
            "--untrained needs to know what to build",
            expected="--encoder and --head",
            todo="for example: --untrained --encoder vit_b --head autosam",
        )
    if options["checkpoint"] is not None:
        raise UsageError("--untrained and --checkpoint contradict each other", todo="drop one")
    encoder = ENCODERS[options["encoder"]]
    size = parse_size(options["image_size"])
    kind, count = cast("HeadKind", options["head"]), options["num_classes"]
    if not 2 <= count <= 255:
        raise UsageError("--num-classes", got=str(count), expected="2..255")
    sam = options["sam_checkpoint"]
    assembled = untrained(
        encoder if size is None else at_image_size(encoder, size),
        plain_head(kind, count),
        seed=options["seed"],
        sam=None if sam is None else read_checkpoint(sam),
        classes=_class_names(options["classes"]),
        outputs=parse_outputs(options["outputs"]),
    )
    return assembled, options["output"] or Path(f"{encoder.name}-{kind}-untrained.autosam")


def parse_precisions(text: str, *, fp16: bool) -> tuple[tuple[GraphPrecision, ...], bool]:
    """Return the graphs to write and whether fp16 may be left out when it misses its gate."""
    if text == "auto":
        return ("fp32", "fp16"), True
    names = [part.strip() for part in text.split(",")]
    if unknown := [name for name in names if name not in ("fp32", "fp16")]:
        raise UsageError(
            "--precision",
            got=unknown[0],
            expected="fp32, fp16, both by comma, or auto",
            todo="int8 is asked for by --int8 --calibration FOLDER" if "int8" in unknown else None,
        )
    # Half graphs are slow on CPUs, so every bundle has its fp32 graph.
    return (("fp32", "fp16") if fp16 or "fp16" in names else ("fp32",)), False


def parse_outputs(text: str) -> tuple[OutputName, ...]:
    """Return the outputs that `--outputs` names.

    Raises:
        UsageError: it names others.
    """
    known: dict[str, tuple[OutputName, ...]] = {
        "labels": ("labels",),
        "labels,logits": ("labels", "logits"),
    }
    if text.replace(" ", "") not in known:
        raise UsageError("--outputs", got=repr(text), expected=" or ".join(known))
    return known[text.replace(" ", "")]


def parse_size(text: str | None) -> ImageSize | None:
    """Return the size that `--image-size` names, None where it is not given.

    Raises:
        UsageError: it names none.
    """
    return None if text is None else parse_image_size(text)


def _class_names(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    path = Path(text)
    if path.is_file():
        return tuple(line.strip() for line in path.read_text("utf-8").splitlines() if line.strip())
    return tuple(name.strip() for name in text.split(","))
