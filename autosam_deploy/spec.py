"""What a model is, as data: encoder, head, preprocessing, tensors. Free of torch.

One set of frozen, strict specifications feeds the PyTorch modules, the names and dynamic axes of
the ONNX graphs, the engine profiles, the manifest, the input checks and the C++ host.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from autosam_deploy.errors import SpecError

_T = TypeVar("_T", bound=BaseModel)

HeadKind = Literal["autosam", "cnn", "linear"]
HEAD_KINDS: tuple[HeadKind, ...] = ("autosam", "cnn", "linear")
OutputName = Literal["labels", "logits"]
Axis = Literal["auto", "i", "j", "k"]


class Strict(BaseModel):
    """Frozen, no coercion, unknown keys refused."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


#: Token count times width: vit_b at 1024x1024 is beyond it, at 512x512 it is not.
_BIG = 4096 * 512

Pair = Annotated[tuple[int, int], Field(strict=False)]
Triple = Annotated[tuple[float, float, float], Field(strict=False)]


class EncoderSpec(Strict):
    """SAM's ViT image encoder (Kirillov et al. 2023, segment_anything/modeling/image_encoder.py).

    `image_size` is (height, width) in pixels of the image that enters the patch embedding. SAM's
    own weights are made for 1024x1024; other sizes use interpolated positional tables.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    embed_dim: int = Field(gt=0)
    depth: int = Field(gt=0)
    num_heads: int = Field(gt=0)
    global_attn_indexes: Annotated[tuple[int, ...], Field(strict=False)]
    window_size: int = Field(default=14, ge=0)
    patch_size: int = Field(default=16, gt=0)
    mlp_ratio: float = Field(default=4.0, gt=0)
    out_chans: int = Field(default=256, gt=0)
    image_size: Pair = (1024, 1024)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.embed_dim % self.num_heads:
            raise ValueError(f"num_heads {self.num_heads} does not divide {self.embed_dim}")
        if any(not 0 <= index < self.depth for index in self.global_attn_indexes):
            raise ValueError(f"global_attn_indexes must lie in 0..{self.depth - 1}")
        if any(side <= 0 or side % self.patch_size for side in self.image_size):
            raise ValueError(
                f"image_size {self.image_size} must be positive multiples of the patch size "
                f"{self.patch_size}"
            )
        return self

    @property
    def head_dim(self) -> int:
        """Width of one attention head (64 for vit_b and vit_l, 80 for vit_h)."""
        return self.embed_dim // self.num_heads

    @property
    def grid(self) -> tuple[int, int]:
        """Token grid (Sh, Sw) of the embedding (B, out_chans, Sh, Sw)."""
        height, width = self.image_size
        return height // self.patch_size, width // self.patch_size

    def window_of(self, block: int) -> int:
        """Return the window size of a block; 0 means attention over the whole grid."""
        return 0 if block in self.global_attn_indexes else self.window_size

    @property
    def is_big(self) -> bool:
        """Whether a CPU takes many seconds a slice; judged by tokens times width."""
        rows, columns = self.grid
        return rows * columns * self.embed_dim > _BIG

    def resized(self, image_size: tuple[int, int]) -> EncoderSpec:
        """Return the same encoder for another input size (height, width) in pixels."""
        return parse_spec(EncoderSpec, {**self.model_dump(), "image_size": image_size})


ENCODERS: dict[str, EncoderSpec] = {
    "vit_b": EncoderSpec(
        name="vit_b", embed_dim=768, depth=12, num_heads=12, global_attn_indexes=(2, 5, 8, 11)
    ),
    "vit_l": EncoderSpec(
        name="vit_l", embed_dim=1024, depth=24, num_heads=16, global_attn_indexes=(5, 11, 17, 23)
    ),
    "vit_h": EncoderSpec(
        name="vit_h", embed_dim=1280, depth=32, num_heads=16, global_attn_indexes=(7, 15, 23, 31)
    ),
    # For the demo and the tests: no published weights exist for it. The 16x16 grid does not divide
    # by the window, so padding is exercised; both kinds of block are present.
    "vit_tiny": EncoderSpec(
        name="vit_tiny",
        embed_dim=96,
        depth=4,
        num_heads=3,
        global_attn_indexes=(1, 3),
        window_size=7,
        image_size=(256, 256),
    ),
}


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


def parse_spec(cls: type[_T], value: Any, *, what: str | None = None) -> _T:
    """Validate `value` (dict or JSON text) as `cls`, with a one-line error.

    Raises:
        SpecError: naming the first offending field, what it holds and what is expected.
    """
    try:
        if isinstance(value, str | bytes):
            return cls.model_validate_json(value)
        return cls.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "value"
        shown = re.sub(r"\s+", " ", repr(first["input"]))[:80]
        raise SpecError(
            f"{what or cls.__name__} is not valid at '{where}'",
            got=shown,
            expected=first["msg"],
        ) from error
