"""Is an int8 graph good enough? Its labels against the float32 graph's, on volumes it never saw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autosam_deploy.errors import ParityError
from autosam_deploy.export.int8.slices import JudgedCase, Material
from autosam_deploy.metrics import dice
from autosam_deploy.parity import Quantized
from autosam_deploy.runtime.backend import Outputs
from autosam_deploy.runtime.providers import import_onnxruntime, open_session, run_session

#: Share of pixels that must keep their label, and how much Dice a class may lose.
MIN_AGREEMENT = 0.995
MAX_DICE_LOSS = 0.005

Run = Callable[[NDArray[np.float32]], Outputs]


@dataclass(frozen=True)
class Judgement:
    """What was found; `largest` and `rms` are differences of logits on the judged slices."""

    quantized: Quantized
    largest: float
    rms: float

    @property
    def problems(self) -> list[str]:
        """Which gates are missed, with the numbers."""
        found, one = [], self.quantized
        if one.agreement < MIN_AGREEMENT:
            found.append(f"{one.agreement:.3%} of labels are equal, gate {MIN_AGREEMENT:.1%}")
        # Not a number, where no class is anywhere, proves nothing.
        if not one.dice_loss <= MAX_DICE_LOSS:
            whose = "people's labels" if one.truth == "labels" else "the float32 graph's labels"
            found.append(f"Dice loss {one.dice_loss:.4f} by {whose}, gate {MAX_DICE_LOSS}")
        return found


def open_run(graph: Path, *, threads: int) -> Run:
    """Load a graph on ONNX Runtime's CPU provider."""
    session = open_session(import_onnxruntime(), graph, provider="cpu", index=0, threads=threads)
    return lambda slices: run_session(session, slices, ("labels", "logits"))


def judge(
    plain: Run, integers: Run, material: Material, *, classes: int, step: Callable[[], None]
) -> Judgement:
    """Compare both graphs on the judged slices.

    Args:
        plain: runs the float32 graph.
        integers: runs the int8 graph.
        material: the slices.
        classes: K of the model.
        step: called after each slice.
    """
    equal = pixels = 0
    losses, squares, largest = [], 0.0, 0.0
    for case in material.judged:
        found: tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]] = ([], [])
        for index in range(len(case.slices)):
            one = case.slices[index : index + 1]
            outputs = plain(one), integers(one)
            for labels, output in zip(found, outputs, strict=True):
                labels.append(output["labels"])
            difference = np.abs(outputs[0]["logits"] - outputs[1]["logits"]).astype(np.float64)
            largest = max(largest, float(difference.max()))
            squares += float(np.mean(np.square(difference)))
            step()
        before, after = np.concatenate(found[0]), np.concatenate(found[1])
        equal += int((before == after).sum())
        pixels += before.size
        losses.append(_losses(case, before, after, classes))
    counted = np.array(losses)
    present = ~np.isnan(counted).all(axis=0)
    worst = float(np.nanmean(counted[:, present], axis=0).max()) if present.any() else float("nan")
    return Judgement(
        Quantized(
            calibration_slices=len(material.calibration),
            cases=len(material.judged),
            slices=material.judged_slices,
            agreement=equal / pixels,
            dice_loss=worst,
            truth="fp32 graph" if material.judged[0].labels is None else "labels",
        ),
        largest=largest,
        rms=float(np.sqrt(squares / material.judged_slices)),
    )


def _losses(
    case: JudgedCase, before: NDArray[np.uint8], after: NDArray[np.uint8], classes: int
) -> NDArray[np.float64]:
    """Return how much Dice each class but background loses in one case, NaN where it is nowhere."""
    truth = before if case.labels is None else case.labels
    scores = [dice(labels, truth, num_classes=classes)[1:] for labels in (before, after)]
    return scores[0] - scores[1]


def require_good(judgement: Judgement) -> None:
    """Raise unless an int8 graph passed.

    Raises:
        ParityError: with the numbers.
    """
    if problems := judgement.problems:
        one = judgement.quantized
        raise ParityError(
            "int8 costs this model too much",
            got=f"{'; '.join(problems)} ({one.slices} slices of {one.cases} volumes)",
            todo="the bundle is as it was; use fp32, or bf16 on OpenVINO",
        )
