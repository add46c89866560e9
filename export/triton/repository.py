"""A bundle as a model in a model repository of Triton Inference Server.

    model_repository/heart/config.pbtxt, labels.txt, warmup/case_0.slices.raw
                           1/model.onnx (+ its data file) or model.plan, autosam.json

A server may watch the repository, and takes every folder in it for a model. So all is written in a
temporary folder beside the repository and moved into it by renaming.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from autosam_deploy.bundle.manifest import Artefact
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import ExportError, UsageError
from autosam_deploy.export.triton.choose import Choice, Want, choose_artefact
from autosam_deploy.export.triton.config import (
    WARMUP_FOLDER,
    Serving,
    Warmup,
    batch_limits,
    class_names,
    model_config,
)
from autosam_deploy.export.triton.place import (
    Existing,
    copy_member,
    look_at_model,
    place_model,
    place_version,
)
from autosam_deploy.files import write_json
from autosam_deploy.runtime.nvidia.families import rebuild
from autosam_deploy.runtime.selftest import read_golden

ExistingConfig = Literal["refuse", "keep", "replace"]

#: What travels in a URL and on every file system.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
SOURCE_FILE = "autosam.json"


@dataclass(frozen=True)
class Options:
    """How to serve a bundle.

    name: of the model; None takes the bundle's. max_batch: largest batch; None takes the engine's
    largest, or 4 for graphs. queue_delay_us: microseconds that a request may wait for others.
    instances: on every GPU, or on the CPU. overwrite_version: an existing version to replace; None
    adds the next. existing_config: what to do where the model is configured otherwise already.
    """

    name: str | None = None
    max_batch: int | None = None
    queue_delay_us: int = 1000
    instances: int = 1
    warmup: bool = True
    overwrite_version: int | None = None
    existing_config: ExistingConfig = "refuse"


@dataclass(frozen=True)
class Written:
    """What was written: the model's folder, its version, and the artefact in it."""

    model: Path
    version: int
    artefact: Artefact
    serving: Serving
    reason: str
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {
            "model": str(self.model),
            "version": self.version,
            "platform": self.serving.platform,
            "device": self.serving.device,
            "artefact": self.artefact.file.path,
            "precision": self.artefact.precision,
            "reason": self.reason,
            "max_batch_size": self.serving.max_batch,
            "instances": self.serving.instances,
            "notes": list(self.notes),
        }


def write_repository(
    bundle: Bundle, output: Path, *, want: Want | None = None, options: Options | None = None
) -> Written:
    """Write a bundle as a new version of a model, whole or not at all.

    Members are hashed as they are copied, so the bundle may have been opened unverified.

    Args:
        bundle: an opened bundle.
        output: the model repository, made if it is not there.
        want: which graph or engine to serve.
        options: how to serve it.

    Raises:
        UsageError: options that contradict each other, the bundle or the repository.
        ExportError: the bundle lacks what was asked for, or Triton could not serve it.
        BundleError: a member of the bundle was altered.
        OutputError: the repository cannot be written, or the model in it is configured otherwise.
    """
    want, options = want or Want(), options or Options()
    _check_options(options)
    name = _model_name(bundle, options.name)
    repository = _repository(bundle, output)
    choice = choose_artefact(bundle, want)
    serving, warmup = _serving(bundle, choice, want=want, options=options, name=name)
    shared = {
        "config.pbtxt": model_config(bundle.manifest, choice.artefact, serving).encode(),
        "labels.txt": "".join(f"{one}\n" for one in class_names(bundle.manifest)).encode(),
        **warmup,
    }
    there = look_at_model(repository / name)
    version = _version(there, options.overwrite_version)
    changed = there.differing(shared)
    there.check_config(changed, allowed=options.existing_config != "refuse")

    def fill(folder: Path) -> None:
        _fill_version(bundle, choice.artefact, folder)

    if there.empty:
        place_model(repository, name, version, shared=shared, fill=fill)
    else:
        replaced = changed if options.existing_config == "replace" else ()
        place_version(
            there.path, version, shared={path: shared[path] for path in replaced}, fill=fill
        )
    notes = (*choice.notes, *_notes(bundle, serving, options, changed if not there.empty else ()))
    return Written(there.path, version, choice.artefact, serving, choice.reason, notes)


def _check_options(options: Options) -> None:
    for word, value, least in (
        ("--max-batch", options.max_batch, 1),
        ("--instances", options.instances, 1),
        ("--queue-delay-us", options.queue_delay_us, 0),
        ("--overwrite-version", options.overwrite_version, 1),
    ):
        # The configuration holds 32-bit integers.
        if value is not None and not least <= value < 1 << 31:
            raise UsageError(word, got=str(value), expected=f"{least} or more, below 2^31")


def _model_name(bundle: Bundle, asked: str | None) -> str:
    name = bundle.manifest.name if asked is None else asked
    if _NAME.fullmatch(name) is None:
        raise UsageError(
            "name of the model" if asked is None else "--name",
            got=repr(name[:120]),
            expected="up to 100 letters, digits, '_', '-' and '.', a letter or digit first",
            todo="give one with --name" if asked is None else None,
        )
    return name


def _repository(bundle: Bundle, output: Path) -> Path:
    """Return the repository's own path, links followed, if a repository can be there."""
    repository = output.resolve()
    if repository.exists() and not repository.is_dir():
        raise UsageError(
            f"'{output}' is a file", expected="a folder or a free name", todo="choose an --output"
        )
    if repository.is_relative_to(bundle.path.resolve()):
        raise UsageError(f"'{output}' lies in the bundle", todo="choose an --output outside of it")
    if (repository / "config.pbtxt").exists():
        raise UsageError(
            f"'{output}' is a model, not a model repository",
            got="a folder with config.pbtxt",
            todo=f"name the folder around it: --output '{repository.parent}'",
        )
    return repository


def _serving(
    bundle: Bundle, choice: Choice, *, want: Want, options: Options, name: str
) -> tuple[Serving, dict[str, bytes]]:
    """Return how the model is served, and the file of its warm-up if there is one."""
    command = rebuild("tensorrt", sm=None, bundle=str(bundle.path))
    largest, preferred = batch_limits(choice.artefact, options.max_batch, command=command)
    files: dict[str, bytes] = {}
    warmup = None
    if options.warmup:
        warmup, files = _warmup(bundle, choice.artefact)
    serving = Serving(
        name=name,
        platform=want.platform,
        device=want.device,
        max_batch=largest,
        preferred=preferred,
        queue_delay_us=options.queue_delay_us,
        instances=options.instances,
        warmup=warmup,
    )
    return serving, files


def _warmup(bundle: Bundle, artefact: Artefact) -> tuple[Warmup, dict[str, bytes]]:
    """Take the first golden slice that can be run, else zeros of the profile's best size."""
    profile = {} if artefact.engine is None else artefact.engine.profile

    def fits(axis: str, size: int) -> bool:
        return axis not in profile or profile[axis][0] <= size <= profile[axis][2]

    for case in bundle.manifest.golden:
        bundle.verify(case.slices)
        slices = read_golden(bundle, case).slices
        height, width = slices.shape[2:]
        if len(slices) and fits("H", height) and fits("W", width):
            file = f"{Path(case.slices.path).stem}.raw"
            raw = slices[0].astype("<f4").tobytes()
            return Warmup(file, height, width), {f"{WARMUP_FOLDER}/{file}": raw}
    if not {"H", "W"} <= profile.keys():
        raise ExportError("no golden slice can warm the model up", todo="add --no-warmup")
    return Warmup(None, profile["H"][1], profile["W"][1]), {}


def _version(there: Existing, overwrite: int | None) -> int:
    if overwrite is None:
        return max(there.numbers, default=0) + 1
    if overwrite not in there.versions:
        listed = ", ".join(map(str, sorted(there.versions))) or "none"
        raise UsageError(
            f"'{there.path}' has no version {overwrite} to overwrite",
            got=f"versions: {listed}",
            todo="drop --overwrite-version to add one",
        )
    return overwrite


def _fill_version(bundle: Bundle, artefact: Artefact, folder: Path) -> None:
    """Write the graph or engine as the backend looks for it, and where it comes from."""
    name = "model.plan" if artefact.engine is not None else "model.onnx"
    copy_member(bundle, artefact.file, folder / name)
    if artefact.external_data is not None:
        # The graph names its data relative to itself, so this name must stay.
        inner = Path(artefact.external_data.path)
        around = Path(artefact.file.path).parent
        if not inner.is_relative_to(around):
            raise ExportError(
                f"'{inner}' lies outside the folder of its graph", todo="export the bundle again"
            )
        copy_member(bundle, artefact.external_data, folder / inner.relative_to(around))
    write_json(folder / SOURCE_FILE, _source(bundle, artefact))


def _source(bundle: Bundle, artefact: Artefact) -> dict[str, Any]:
    """Say what is served, for whoever has to tell one version from another."""
    manifest = bundle.manifest
    record: dict[str, Any] = {
        "bundle": manifest.name,
        "manifest_sha256": bundle.manifest_sha256,
        "artefact": artefact.file.model_dump(mode="json"),
        "precision": artefact.precision,
        "trained": manifest.trained,
        "intended_use": manifest.intended_use,
        "created": manifest.provenance.created,
    }
    if artefact.engine is not None:
        record["engine"] = artefact.engine.model_dump(mode="json")
    return record


def _notes(
    bundle: Bundle, serving: Serving, options: Options, changed: tuple[str, ...]
) -> tuple[str, ...]:
    notes = []
    if serving.warmup is not None and serving.warmup.file is None:
        notes.append(
            "no golden slice fits the engine's profile: the warm-up runs zeros of "
            f"{serving.warmup.height}x{serving.warmup.width}"
        )
    if changed:
        done = "were kept" if options.existing_config == "keep" else "were replaced"
        notes.append(f"files that all versions share {done}: {', '.join(changed)}")
    if not bundle.manifest.trained:
        notes.append("random weights: good for latency, not for labels")
    return tuple(notes)
