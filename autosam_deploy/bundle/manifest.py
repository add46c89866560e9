"""The manifest: everything that a host must know about a bundle, strict and versioned."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from autosam_deploy.spec import ModelSpec, TensorSpec, WeightsInfo
from autosam_deploy.strict import Strict

#: 2 has encoders of several kinds and says where their weights are from.
SCHEMA_VERSION: Literal[2] = 2
MANIFEST = "manifest.json"
#: "int8" is integers in the encoder's linear layers and float32 everywhere else.
Precision = Literal["fp32", "fp16", "bf16", "int8"]
Kind = Literal["onnx", "weights", "engine"]

#: `intended_use` of weights that were never trained.
UNTRAINED_USE = "Random weights: for latency and memory measurements only."

#: Parts of ASCII letters, digits, `_`, `-` and inner dots. Names outside it change from one file
#: system to the next (case folding, Unicode forms, trailing dots), and hosts in other languages
#: can check the same expression.
MEMBER_PATH = r"^[A-Za-z0-9_-]+(\.+[A-Za-z0-9_-]+)*(/[A-Za-z0-9_-]+(\.+[A-Za-z0-9_-]+)*)*$"


def check_member_path(path: str) -> str:
    """Return `path` if it names a member of the bundle in POSIX form.

    Raises:
        ValueError: absolute, with a drive, backslashes, `.` or `..`, empty parts, or characters
            that do not travel between file systems; or the manifest itself.
    """
    if not path or "\\" in path or ":" in path or any(ord(char) < 32 for char in path):
        raise ValueError(f"{path!r} is not a plain relative path")
    if path.startswith("/") or any(part in ("", ".", "..") for part in path.split("/")):
        raise ValueError(f"{path!r} must stay inside the bundle: no '..', no absolute path")
    if re.fullmatch(MEMBER_PATH, path) is None:
        raise ValueError(f"{path!r} must be made of letters, digits, '_', '-' and inner dots")
    if path.lower() == MANIFEST:
        raise ValueError("the manifest cannot be a member of itself")
    return path


class FileRef(Strict):
    """A member of the bundle, bound by its content."""

    path: str = Field(max_length=255, json_schema_extra={"pattern": MEMBER_PATH})
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0, lt=1 << 63)

    @field_validator("path")
    @classmethod
    def _inside(cls, path: str) -> str:
        return check_member_path(path)


class Island(Strict):
    """A node of the graph that stays in float32, why, and its largest magnitude if measured."""

    node: str
    reason: str
    largest: float | None = None


class Typing(Strict):
    """How a low-precision graph was typed.

    `share` is the share of nodes in low precision (0..1); a node whose magnitude passed
    `range_limit` on the calibration slices became an island.
    """

    range_limit: float
    share: float = Field(ge=0, le=1)
    islands: Annotated[tuple[Island, ...], Field(strict=False)]


class EngineInfo(Strict):
    """What an engine was built with and for, and what its builder said; it runs nowhere else.

    key: sha256 over everything that decides what the engine is (`engine_key`). version: of the
    TensorRT library, all its parts. platform: "linux-x86_64". compute_capabilities: 89 is sm89.
    graph_sha256: of the ONNX graph it was built from. profile: axis symbol of the inputs ("B",
    "H", "W") -> smallest, best and largest size. workspace_bytes: limit given to the builder.
    activation_bytes: device memory of one execution context at the largest sizes, beside the
    weights; None where the builder did not say. layers: of the typed network. low_share: share
    (0..1) of its floating-point layers whose results are in low precision. log: what the builder
    said.
    """

    family: Literal["tensorrt", "tensorrt_rtx"]
    version: str = Field(pattern=r"^[0-9]+(\.[0-9]+)+$")
    platform: str = Field(pattern=r"^[a-z0-9]+-[a-z0-9_]+$")
    compute_capabilities: Annotated[tuple[int, ...], Field(strict=False, min_length=1)]
    graph_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    profile: dict[str, Annotated[tuple[int, int, int], Field(strict=False)]]
    workspace_bytes: int | None = Field(default=None, ge=1, lt=1 << 63)
    activation_bytes: int | None = Field(default=None, ge=0, lt=1 << 63)
    layers: int = Field(ge=1, lt=1 << 31)
    low_share: float = Field(ge=0, le=1)
    build_seconds: float = Field(ge=0)
    log: FileRef | None = None
    key: str = Field(pattern=r"^[0-9a-f]{64}$")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for axis, (low, best, high) in self.profile.items():
            if not 1 <= low <= best <= high:
                raise ValueError(f"profile of {axis!r} must rise from 1 or more")
        if self.key != self.engine_key():
            raise ValueError("the key contradicts what it was made of")
        return self

    @classmethod
    def made_of(cls, **fields: Any) -> Self:
        """Return a record with the key that belongs to its other fields.

        Raises:
            ValidationError: a field is missing or not valid.
        """
        draft = cls.model_construct(**fields, key="")
        return cls(**{**fields, "key": draft.engine_key()})

    def engine_key(self) -> str:
        """Return the hash of everything that decides what the engine is."""
        parts = {
            "family": self.family,
            "version": self.version,
            "platform": self.platform,
            "compute_capabilities": list(self.compute_capabilities),
            "graph_sha256": self.graph_sha256,
            "profile": {axis: list(self.profile[axis]) for axis in sorted(self.profile)},
            "workspace_bytes": self.workspace_bytes,
        }
        text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


class Artefact(Strict):
    """One executable form of the model.

    `lowering` and `opset` belong to graphs, `engine` to engines, `typing` to low precision.
    """

    kind: Kind
    precision: Precision
    file: FileRef
    external_data: FileRef | None = None
    lowering: str | None = None
    opset: int | None = None
    typing: Typing | None = None
    engine: EngineInfo | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        graph = self.lowering is not None and self.opset is not None
        if (self.kind == "onnx") != graph:
            raise ValueError("lowering and opset are given for graphs, and only for them")
        if (self.kind == "engine") != (self.engine is not None):
            raise ValueError("engine is given for engines, and only for them")
        return self


class GoldenCase(Strict):
    """Raw slices (B, 1, H, W) float32 and what the segmenter makes of them, as .npy files."""

    name: str
    slices: FileRef
    labels: FileRef
    logits: FileRef


class Provenance(Strict):
    """Where a bundle comes from.

    sources: file name -> sha256 of the weights files. encoder_weights: published weights that the
    encoder's are, where they are known.
    """

    created: str
    command: str
    versions: dict[str, str]
    sources: dict[str, str]
    encoder_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    encoder_weights: WeightsInfo | None = None


class Manifest(Strict):
    """The content of `manifest.json`."""

    schema_version: Literal[1, 2]
    name: str = Field(min_length=1)
    trained: bool
    intended_use: str
    model: ModelSpec
    inputs: Annotated[tuple[TensorSpec, ...], Field(strict=False)]
    outputs: Annotated[tuple[TensorSpec, ...], Field(strict=False)]
    artefacts: Annotated[tuple[Artefact, ...], Field(strict=False, min_length=1)]
    golden: Annotated[tuple[GoldenCase, ...], Field(strict=False, min_length=1)]
    parity: FileRef
    provenance: Provenance

    @field_validator("schema_version", mode="before")
    @classmethod
    def _plain_integer(cls, version: Any) -> Any:
        # A literal compares with ==, which takes true and 1.0 for 1; a C++ reader does not.
        if type(version) is not int:
            raise ValueError("an integer")
        return version

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.inputs != (self.model.input_tensor,):
            raise ValueError("inputs contradict the model")
        if self.outputs != self.model.output_tensors:
            raise ValueError("outputs contradict the model")
        # Without case: two such files are one on Windows and macOS.
        paths = [ref.path.lower() for ref in self.files()]
        if len(set(paths)) != len(paths):
            raise ValueError("two entries name the same file")
        return self

    def files(self) -> list[FileRef]:
        """Return every member file that the manifest names."""
        found = [self.parity]
        for artefact in self.artefacts:
            found.append(artefact.file)
            if artefact.external_data is not None:
                found.append(artefact.external_data)
            if artefact.engine is not None and artefact.engine.log is not None:
                found.append(artefact.engine.log)
        for case in self.golden:
            found += [case.slices, case.labels, case.logits]
        return found
