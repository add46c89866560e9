"""What a model is, as data: encoder, head, preprocessing, tensors. Free of torch.

One set of frozen, strict specifications feeds the PyTorch modules, the names and dynamic axes of
the ONNX graphs, the engine profiles, the manifest, the input checks and the C++ host.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from autosam_deploy.encoders import EncoderSpec
from autosam_deploy.errors import SpecError
from autosam_deploy.strict import Strict, Triple

HeadKind = Literal["autosam", "cnn", "linear"]
HEAD_KINDS: tuple[HeadKind, ...] = ("autosam", "cnn", "linear")
OutputName = Literal["labels", "logits"]
Axis = Literal["auto", "i", "j", "k"]


class _HeadBase(Strict):
    num_classes: int = Field(ge=2, le=255)
    embed_dim: int = Field(default=256, gt=0)


class AutosamHead(_HeadBase):
    """SAM's mask decoder without prompts, one token set per class (models/sam_decoder.py)."""

    kind: Literal["autosam"] = "autosam"
    transformer_depth: int = Field(default=2, gt=0)
    num_heads: int = Field(default=8, gt=0)
    mlp_dim: int = Field(default=2048, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.embed_dim % (2 * self.num_heads) or self.embed_dim % 8:
            raise ValueError(f"embed_dim {self.embed_dim} must divide by 8 and by 2 x num_heads")
        return self


class CnnHead(_HeadBase):
    """Convolutional decoder (models/SamFeatSeg.py, SegDecoderCNN); the reference uses depth 4."""

    kind: Literal["cnn"] = "cnn"
    depth: int = Field(default=4, ge=1, le=6)
    top_channels: int = Field(default=64, gt=0)


class LinearHead(_HeadBase):
    """Two transposed and two 1x1 convolutions (models/SamFeatSeg.py, SegDecoderLinear).

    The reference ends in a ReLU on the logits (`final_relu`), which can die in training; heads
    trained here leave it out.
    """

    kind: Literal["linear"] = "linear"
    final_relu: bool = True


HeadSpec = Annotated[AutosamHead | CnnHead | LinearHead, Field(discriminator="kind")]


def plain_head(kind: HeadKind, num_classes: int) -> HeadSpec:
    """Return a head as the reference shapes it, but without a ReLU on a linear head's logits."""
    if kind == "autosam":
        return AutosamHead(num_classes=num_classes)
    if kind == "cnn":
        return CnnHead(num_classes=num_classes)
    return LinearHead(num_classes=num_classes, final_relu=False)


class PreprocessSpec(Strict):
    """How a raw slice becomes the encoder's input; data in the artefact, executed in the graph.

    Order: intensity -> pixel mean/std (in the units that `intensity` leaves) -> resize.

    intensity: `slice-minmax` (AutoSAM: per-slice to [0, 1]; a flat slice gives zeros),
        `slice-zscore` (zero mean, unit population standard deviation; a flat slice gives zeros),
        `window` (CT: level/width clipped to [0, 1]), `none`.
    resize: `stretch` to the encoder's size (AutoSAM) or `longest-side` with zero padding to the
        right and below (SAM); always bilinear with align_corners=False.
    slice_axis: image index axis that slices are taken along; `auto` = largest spacing, else k.
    """

    intensity: Literal["slice-minmax", "slice-zscore", "window", "none"] = "slice-minmax"
    window_level: float | None = None
    window_width: float | None = Field(default=None, gt=0)
    pixel_mean: Triple | None = None
    pixel_std: Triple | None = None
    resize: Literal["stretch", "longest-side"] = "stretch"
    slice_axis: Axis = "auto"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        windowed = self.intensity == "window"
        given = self.window_level is not None, self.window_width is not None
        if given != (windowed, windowed):
            raise ValueError("window_level and window_width go with intensity 'window', both")
        if (self.pixel_mean is None) != (self.pixel_std is None):
            raise ValueError("pixel_mean and pixel_std are given together or not at all")
        if self.pixel_std is not None and min(self.pixel_std) <= 0:
            raise ValueError("pixel_std must be positive")
        return self


class TensorSpec(Strict):
    """A named tensor; symbolic dimensions are strings ("B", "H", "W")."""

    name: str
    dtype: Literal["float32", "float16", "uint8"]
    shape: Annotated[tuple[int | str, ...], Field(strict=False)]

    @property
    def dynamic_axes(self) -> dict[int, str]:
        """Axis number -> symbol of every dimension that is not fixed."""
        return {axis: dim for axis, dim in enumerate(self.shape) if isinstance(dim, str)}

    def sized(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Return the shape with numbers for its symbols (see `slice_sizes`)."""
        return tuple(sizes[dim] if isinstance(dim, str) else dim for dim in self.shape)


#: The input of every model.
SLICES = TensorSpec(name="slices", dtype="float32", shape=("B", 1, "H", "W"))


def slice_sizes(shape: tuple[int, ...]) -> dict[str, int]:
    """Return what the symbols of tensors mean for slices of a shape (B, 1, H, W)."""
    return {"B": shape[0], "H": shape[2], "W": shape[3]}


class ClassSpec(Strict):
    """One class: the label value is its position in the list, 0 being background."""

    name: str = Field(min_length=1)
    colour: str = Field(pattern=r"^#[0-9a-f]{6}$")


# Okabe & Ito's palette: told apart with colour-deficient sight; background is black.
_PALETTE = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")


def default_classes(
    num_classes: int, names: tuple[str, ...] | None = None
) -> tuple[ClassSpec, ...]:
    """Return classes with names (or `background`, `class_1`, ...) and default colours.

    Raises:
        SpecError: the number of names is not `num_classes`, or a name comes twice.
    """
    if names is None:
        names = ("background", *(f"class_{index}" for index in range(1, num_classes)))
    if len(names) != num_classes:
        raise SpecError(
            "class names do not match the head",
            got=f"{len(names)} names ({', '.join(names)})",
            expected=f"{num_classes}, background first",
        )
    if len(set(names)) != len(names):
        raise SpecError("class names repeat", got=", ".join(names), expected="distinct names")
    colours = ("#000000", *(_PALETTE[i % len(_PALETTE)] for i in range(num_classes - 1)))
    return tuple(ClassSpec(name=n, colour=c) for n, c in zip(names, colours, strict=True))


class WeightsInfo(Strict):
    """Published weights: name, SHA-256 of the file, where it is from, under which licence."""

    name: str = Field(min_length=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    origin: str
    licence: str


class ModelSpec(Strict):
    """A whole segmenter: slices (B, 1, H, W) float32 raw -> labels (B, H, W) uint8, logits."""

    encoder: EncoderSpec
    head: HeadSpec
    classes: Annotated[tuple[ClassSpec, ...], Field(strict=False)]
    preprocess: PreprocessSpec = PreprocessSpec()
    outputs: Annotated[tuple[OutputName, ...], Field(strict=False)] = ("labels", "logits")

    @field_validator("outputs")
    @classmethod
    def _outputs(cls, outputs: tuple[OutputName, ...]) -> tuple[OutputName, ...]:
        if outputs not in {("labels",), ("labels", "logits"), ("logits",)}:
            raise ValueError("outputs must be labels, logits, or labels then logits")
        return outputs

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.head.embed_dim != self.encoder.out_chans:
            raise ValueError(
                f"head expects embeddings of {self.head.embed_dim} channels, the encoder gives "
                f"{self.encoder.out_chans}"
            )
        if len(self.classes) != self.head.num_classes:
            raise ValueError(f"{len(self.classes)} classes named for {self.head.num_classes}")
        return self

    @property
    def input_tensor(self) -> TensorSpec:
        """The one input: raw slices, any intensity scale."""
        return SLICES

    @property
    def output_tensors(self) -> tuple[TensorSpec, ...]:
        """Outputs in graph order."""
        known = {
            "labels": TensorSpec(name="labels", dtype="uint8", shape=("B", "H", "W")),
            "logits": TensorSpec(
                name="logits", dtype="float32", shape=("B", self.head.num_classes, "H", "W")
            ),
        }
        return tuple(known[name] for name in self.outputs)
