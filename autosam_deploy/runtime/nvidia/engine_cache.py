"""What ONNX Runtime's TensorRT providers are told: sizes to build for, where to keep engines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from autosam_deploy.bundle.manifest import Artefact
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.files import private_folder, user_cache

#: Provider word -> family of engines whose profile is the better guide.
_FAMILY = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}


def engine_cache() -> Path | None:
    """Return the user's folder for engines that can be built again, or None."""
    base = user_cache()
    return None if base is None else base / "engines"


@dataclass(frozen=True)
class BuildHints:
    """Options of a TensorRT provider, and what a report should say of them."""

    options: dict[str, str]
    notes: tuple[str, ...]


def build_hints(
    bundle: Bundle, artefact: Artefact, *, provider: str, version: str, cache: Path | None
) -> BuildHints:
    """Return what to tell a provider that builds engines itself.

    Args:
        bundle: whose engines, if it has any, say which sizes matter.
        artefact: the graph that will be built.
        provider: "tensorrt" or "rtx"; others are told nothing.
        version: of ONNX Runtime, since an engine belongs to one.
        cache: see `ort_options.OrtOptions`.
    """
    if provider not in _FAMILY:
        return BuildHints({}, ())
    prefix = "trt" if provider == "tensorrt" else "nv"
    options, notes = {}, []
    shapes = _profile(bundle, artefact, _FAMILY[provider])
    if shapes is None:
        notes.append("no profile: the bundle has no engine, so each new size may be built anew")
    else:
        for word, text in zip(("min", "opt", "max"), shapes, strict=True):
            options[f"{prefix}_profile_{word}_shapes"] = text
        notes.append(f"profile {shapes[0]} to {shapes[2]}")
    folder, problem = None, "none was asked for"
    if cache is not None:
        name = f"{artefact.file.sha256[:16]}-{provider}-{version}"
        folder, problem = private_folder(cache / name)
    if folder is None:
        notes.append(f"no engine cache ({problem}): engines are built in every process")
    elif provider == "rtx":
        options["nv_runtime_cache_path"] = str(folder)
        notes.append(f"engine cache '{folder}'")
    else:
        options |= {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(folder),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(folder),
        }
        notes.append(f"engine cache '{folder}'")
    return BuildHints(options, tuple(notes))


def _profile(bundle: Bundle, artefact: Artefact, family: str) -> tuple[str, str, str] | None:
    """Return smallest, best and largest shapes, of the bundle's engine that is most alike."""
    engines = [one for one in bundle.manifest.artefacts if one.engine is not None]
    if not engines:
        return None
    likest = max(
        engines,
        key=lambda one: (
            one.engine is not None and one.engine.family == family,
            one.precision == artefact.precision,
        ),
    )
    sizes = likest.engine.profile if likest.engine is not None else {}
    found = []
    for at in range(3):
        tensors = []
        for tensor in bundle.manifest.inputs:
            if any(isinstance(dim, str) and dim not in sizes for dim in tensor.shape):
                return None
            dims = tensor.sized({axis: corners[at] for axis, corners in sizes.items()})
            tensors.append(f"{tensor.name}:{'x'.join(map(str, dims))}")
        found.append(",".join(tensors))
    return found[0], found[1], found[2]
