"""A plan read from a bundle, deserialized, and held against what the manifest says of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autosam_deploy.bundle.manifest import FileRef
from autosam_deploy.errors import (
    BackendError,
    BackendInputError,
    BundleError,
    OutOfMemoryError,
)
from autosam_deploy.runtime.nvidia.choice import Choice
from autosam_deploy.runtime.nvidia.families import FAMILIES, make_logger, rebuild
from autosam_deploy.spec import SLICES, TensorSpec, slice_sizes

Profile = dict[str, tuple[int, int, int]]
Shape = tuple[int, ...]
#: What is found of a name that an engine does not have.
_NOTHING: tuple[str, str, Shape] = ("out", "nothing of that name", ())
#: TensorRT's names of element types -> the manifest's.
_DTYPES = {"FLOAT": "float32", "HALF": "float16", "UINT8": "uint8"}


def read_plan(folder: Path, ref: FileRef) -> bytes:
    """Return the bytes of a plan, hashed as they are handed over.

    A plan is code for the device. So it is hashed here whether or not the bundle was verified, and
    no file is opened a second time in between.

    Raises:
        BundleError: it cannot be read or is not what the manifest binds.
    """
    what = f"engine '{ref.path}' of '{folder}'"
    try:
        plan = (folder / ref.path).read_bytes()
    except OSError as error:
        raise BundleError(f"{what} cannot be read", got=error.strerror or str(error)) from error
    digest = hashlib.sha256(plan).hexdigest()
    if digest != ref.sha256:
        raise BundleError(
            f"{what} was altered",
            got=f"{len(plan)} bytes, sha256 {digest[:16]}...",
            expected=f"{ref.bytes} bytes, {ref.sha256[:16]}...",
            todo="copy the bundle or build the engine again",
        )
    return plan


@dataclass
class Plan:
    """A deserialized engine and all that must outlive it.

    bundle: how messages call the bundle. notes: what the library remarked.
    """

    choice: Choice
    logger: Any
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    bundle: str
    runtime: Any = None
    engine: Any = None
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The library's name in messages."""
        return FAMILIES[self.choice.info.family].title

    @property
    def profile(self) -> Profile:
        """Axis symbol of the inputs -> smallest, best and largest size."""
        return self.choice.info.profile

    def failure(self, what: str, since: int) -> BackendError:
        """Return the error for something that the library refused, in its own words.

        Args:
            what: that failed, as a clause.
            since: `logger.mark()` from before.

        Returns:
            An OutOfMemoryError if the words speak of memory, else a BackendError.
        """
        said = self.logger.errors(since)
        lowered = said.lower().replace(" ", "")
        full = any(word in lowered for word in ("outofmemory", "cudaerrormemoryallocation"))
        return (OutOfMemoryError if full else BackendError)(
            what, got=said[:400] or "no reason given"
        )

    def close(self) -> None:
        """Release engine, runtime and logger, in the order in which they need each other."""
        self.engine = None
        self.runtime = None
        self.logger = None


def load_plan(
    choice: Choice,
    plan: bytes,
    *,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    bundle: str,
    taps: tuple[str, ...] = (),
) -> Plan:
    """Deserialize a plan on the current device and check what is inside.

    Args:
        choice: what was selected.
        plan: its bytes.
        inputs: tensors that the manifest promises.
        outputs: likewise.
        bundle: how messages call the bundle.
        taps: names of further outputs, whose types and shapes are as the engine says.

    Raises:
        BackendError: the library refuses it, or it contradicts the manifest.
        OutOfMemoryError: the weights do not fit on the device.
    """
    loaded = Plan(choice, make_logger(choice.module), inputs, outputs, bundle)
    try:
        _deserialize(loaded, plan)
        found = _read_tensors(loaded)
        loaded.outputs += tuple(_tap(name, *found.get(name, _NOTHING)[1:]) for name in taps)
        _check_tensors(loaded, found)
        _check_profile(loaded)
    except BaseException:
        loaded.close()
        raise
    return loaded


def _deserialize(loaded: Plan, plan: bytes) -> None:
    title, path = loaded.title, loaded.choice.artefact.file.path
    module = loaded.choice.module
    since = loaded.logger.mark()
    try:
        loaded.runtime = module.Runtime(loaded.logger)
        loaded.notes = _validity(module, loaded.runtime, plan, f"{title} refuses '{path}'")
        loaded.engine = loaded.runtime.deserialize_cuda_engine(plan)
    except (RuntimeError, TypeError, ValueError) as error:
        raise BackendError(f"{title} failed on '{path}'", got=str(error)[:400]) from error
    if loaded.engine is None:
        problem = loaded.failure(f"{title} cannot load '{path}'", since)
        again = rebuild(loaded.choice.info.family, sm=None, bundle=loaded.bundle)
        raise type(problem)(str(problem), todo=again)


def _validity(module: Any, runtime: Any, plan: bytes, what: str) -> tuple[str, ...]:
    """Ask RTX what it thinks of the plan's header; TensorRT has no such question."""
    if not hasattr(runtime, "get_engine_validity"):
        return ()
    verdict, bits = runtime.get_engine_validity(plan)
    reasons = ", ".join(
        name.lower().replace("_", " ")
        for name, member in module.EngineInvalidityDiagnostics.__members__.items()
        if int(member.value) & int(bits)
    )
    if verdict == module.EngineValidity.INVALID:
        raise BackendError(what, got=reasons or "no reason given", todo="build the engine again")
    if verdict == module.EngineValidity.SUBOPTIMAL:
        return (f"the library calls the engine suboptimal here: {reasons or 'no reason given'}",)
    return ()


def _read_tensors(plan: Plan) -> dict[str, tuple[str, str, Shape]]:
    """Return name -> (direction, element type, shape) as the engine says; open sizes are -1."""
    # No name of its own for the engine: the frame of an error would keep it on the device.
    modes = plan.choice.module.TensorIOMode
    found = {}
    for index in range(plan.engine.num_io_tensors):
        name = plan.engine.get_tensor_name(index)
        kind = plan.engine.get_tensor_dtype(name).name
        found[name] = (
            "in" if plan.engine.get_tensor_mode(name) == modes.INPUT else "out",
            _DTYPES.get(kind, kind),
            tuple(plan.engine.get_tensor_shape(name)),
        )
    return found


def _check_tensors(plan: Plan, found: dict[str, tuple[str, str, Shape]]) -> None:
    """Names, directions, element types and shapes, against the manifest's."""
    wanted = {}
    for way, tensors in (("in", plan.inputs), ("out", plan.outputs)):
        for tensor in tensors:
            shape = tuple(-1 if isinstance(dim, str) else dim for dim in tensor.shape)
            wanted[tensor.name] = (way, tensor.dtype, shape)
    if found != wanted:
        raise BackendError(
            "the engine contradicts the manifest", got=str(found), expected=str(wanted)
        )


def _tap(name: str, kind: str, shape: Shape) -> TensorSpec:
    """Return what an engine says of an output that no manifest describes.

    Sizes that it leaves open are those of the slices; a lane checks that before it runs.
    """
    symbols = SLICES.dynamic_axes
    try:
        dims = [symbols[axis] if dim < 0 else dim for axis, dim in enumerate(shape)]
        return TensorSpec.model_validate({"name": name, "dtype": kind, "shape": dims})
    except (ValueError, KeyError) as error:
        raise BackendError(
            f"the engine's output '{name}' cannot be read",
            got=f"{kind} {shape}",
            expected="float32 or float16, open sizes only where slices have them",
        ) from error


def _check_profile(plan: Plan) -> None:
    """One optimisation profile, and it is the recorded one."""
    if plan.engine.num_optimization_profiles != 1:
        raise BackendError(
            "the engine has several optimisation profiles",
            got=str(plan.engine.num_optimization_profiles),
            expected="1",
        )
    for tensor in plan.inputs:
        found = [tuple(dims) for dims in plan.engine.get_tensor_profile_shape(tensor.name, 0)]
        try:
            wanted = [
                tuple(
                    plan.profile[dim][at] if isinstance(dim, str) else dim for dim in tensor.shape
                )
                for at in range(3)
            ]
        except KeyError as error:
            raise BackendError(
                "the engine's record has no sizes for an axis",
                got=f"profile of {', '.join(plan.profile)}",
                expected=f"one with {error}",
            ) from error
        if found != wanted:
            raise BackendError(
                "the engine's profile contradicts its record", got=str(found), expected=str(wanted)
            )


def split(count: int, limits: tuple[int, int, int]) -> list[int] | None:
    """Cut a batch into parts within the profile, as equal as can be; None if there is no way."""
    low, _, high = limits
    parts = -(-count // high)
    base, more = divmod(count, parts)
    return None if base < low else [base + 1] * more + [base] * (parts - more)


def parts_of(shape: tuple[int, ...], plan: Plan) -> list[int]:
    """Return the batches in which slices (B, 1, H, W) run.

    Raises:
        BackendInputError: the profile does not hold such slices.
    """
    sizes = slice_sizes(shape)
    parts = split(shape[0], plan.profile["B"])
    beyond = [
        axis
        for axis in ("H", "W")
        if not plan.profile[axis][0] <= sizes[axis] <= plan.profile[axis][2]
    ]
    if parts is None or beyond:
        info = plan.choice.info
        known = ", ".join(
            f"{axis} {low} to {high}" for axis, (low, _, high) in info.profile.items()
        )
        again = rebuild(info.family, sm=info.compute_capabilities[0], bundle=plan.bundle)
        raise BackendInputError(
            "slices are outside the engine's profile",
            got=", ".join(f"{axis} {size}" for axis, size in sizes.items()),
            expected=known,
            todo=f"{again} with --batch and --size that hold them, or use backend onnxruntime",
        )
    return parts
