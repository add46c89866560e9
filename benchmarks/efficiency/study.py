"""A whole study: every cell trained and scored once, then one result."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from autosam_deploy.benchmarks.baselines.contrastive import PretrainEpoch
from autosam_deploy.benchmarks.efficiency.fits import fit_cell
from autosam_deploy.benchmarks.efficiency.material import Material
from autosam_deploy.benchmarks.efficiency.plan import Cell, count_of
from autosam_deploy.benchmarks.efficiency.pretraining import Pretraining
from autosam_deploy.benchmarks.efficiency.report import write_report
from autosam_deploy.benchmarks.efficiency.result import study_result
from autosam_deploy.benchmarks.efficiency.store import Fingerprint, Store
from autosam_deploy.benchmarks.machine import machine_record
from autosam_deploy.errors import TrainingError
from autosam_deploy.models.image_size import ImageSize
from autosam_deploy.training.embedding.prepare import Caching
from autosam_deploy.training.watch import Watch


class StudyWatch(Watch):
    """Says nothing. Children override what they show."""

    def note(self, text: str) -> None:
        """Something that the user should know."""

    def begin(self, total: int, kept: int) -> None:
        """So many cells are to be trained; others are there already."""

    def cell(self, cell: Cell, epochs: int) -> None:
        """A cell is about to be trained, in so many epochs."""

    def finished(self, cell: Cell, record: Mapping[str, Any]) -> None:
        """A cell was trained and scored, or failed."""

    def pretraining(self, seed: int, epochs: int) -> None:
        """An encoder is about to be pretrained, in so many epochs."""

    def pretrain_epoch(self, epoch: PretrainEpoch) -> None:
        """An epoch of pretraining ended."""

    def pretrained(self, seed: int, seconds: float) -> None:
        """An encoder was pretrained."""


@dataclass(frozen=True)
class Setting:
    """Where and how a study runs.

    folder: of the study. caching: of embeddings. device: of the frozen encoder; all training is on
    the CPU, where equal commands give equal scores. command: for the report. resume: keep finished
    cells. overwrite: remove an earlier study.
    """

    folder: Path
    caching: Caching
    device: torch.device | None = None
    command: str = ""
    resume: bool = False
    overwrite: bool = False


def run_study(
    material: Material, setting: Setting, *, watch: StudyWatch | None = None
) -> dict[str, Any]:
    """Train and score all cells that are not there yet, and write the report.

    The number of threads is the process's (`torch.set_num_threads`).

    Returns:
        What `label-efficiency.json` holds (see `study_result`).

    Raises:
        UsageError: more volumes than the pool holds; embeddings beyond the cache's limit.
        OutputError: the folder holds something else, finished cells were made in another way, or
            something cannot be written.
    """
    watch, store, plan = watch or StudyWatch(), Store(setting.folder), material.plan
    # Whatever cannot be trained is refused here, before anything is written or removed.
    fingerprints = {cell: material.fingerprint(cell) for cell in plan.cells}
    store.check(resume=setting.resume, overwrite=setting.overwrite)
    if setting.overwrite:
        store.clear()
    store.begin()
    machine = machine_record(threads=torch.get_num_threads())
    pretraining = Pretraining(setting.folder, material)
    records = _finished(fingerprints, store, pretraining, watch)
    todo = [cell for cell in plan.cells if cell not in records]
    _embed(material, [cell.image_size for cell in todo], setting, store, watch)
    watch.begin(len(todo), len(records))
    for cell in todo:
        outcome = _run(cell, material, pretraining, watch)
        records[cell] = {**outcome, "fingerprint": fingerprints[cell]}
        store.save(cell, records[cell])
        watch.finished(cell, records[cell])
    result = study_result(
        material,
        [records[cell] for cell in plan.cells],
        machine=machine,
        command=setting.command,
        embeddings=[
            found for size in plan.image_sizes if (found := store.embeddings(size)) is not None
        ],
        pretraining=[pretraining.records[seed] for seed in sorted(pretraining.records)],
    )
    write_report(setting.folder, result)
    return result


def _embed(
    material: Material,
    sizes: Iterable[ImageSize | None],
    setting: Setting,
    store: Store,
    watch: StudyWatch,
) -> None:
    """Embed what cells need, at each of their image sizes once."""
    wanted = [size for size in dict.fromkeys(sizes) if size is not None]
    if len(wanted) > 1:
        # One by one they might fit, and the second would push the first out.
        material.refuse_too_many(wanted, setting.caching)
    for size in wanted:
        made = material.embed(size, caching=setting.caching, device=setting.device, watch=watch)
        store.add_embeddings(size, made)


def _finished(
    fingerprints: Mapping[Cell, Fingerprint],
    store: Store,
    pretraining: Pretraining,
    watch: StudyWatch,
) -> dict[Cell, dict[str, Any]]:
    """Return what an earlier process left; all of it is checked before anything is computed."""
    records = {}
    for cell, fingerprint in fingerprints.items():
        record = store.load(cell, fingerprint)
        if record is not None:
            records[cell] = record
    for seed in sorted({cell.seed for cell in fingerprints if cell.method == "unet-pretrained"}):
        pretraining.find(seed)
    if others := store.others(fingerprints):
        watch.note(
            f"{count_of(others, 'finished cell')} of other methods, sizes, volumes, seeds left out"
        )
    return records


def _run(
    cell: Cell, material: Material, pretraining: Pretraining, watch: StudyWatch
) -> dict[str, Any]:
    """Return the record of a cell; one that cannot be trained is recorded with the reason."""
    record = {
        "method": cell.method,
        "image_size": None if cell.image_size is None else list(cell.image_size),
        "volumes": cell.volumes,
        "seed": cell.seed,
        "train": list(material.draw(cell)),
    }
    clock = time.perf_counter()
    try:
        start = _start(cell, pretraining, watch)
        watch.cell(cell, material.fit_config(cell).epochs)
        outcome = {"failed": None, **fit_cell(cell, material, start=start, report=watch.epoch)}
    except TrainingError as error:
        outcome = {"failed": str(error), "seconds": time.perf_counter() - clock}
    return {**record, **outcome}


def _start(cell: Cell, pretraining: Pretraining, watch: StudyWatch) -> Any:
    """Return the encoder that a cell starts from, None for a random one."""
    if cell.method != "unet-pretrained":
        return None
    if cell.seed in pretraining.records:
        return pretraining.start(cell.seed)
    watch.pretraining(cell.seed, pretraining.material.plan.pretrain_epochs)
    start = pretraining.start(cell.seed, report=watch.pretrain_epoch)
    watch.pretrained(cell.seed, pretraining.records[cell.seed]["seconds"])
    return start
