"""Image encoders as data, one file a kind, free of torch.

A kind is a child of `base.Encoder` here, its reference module in `models/encoders` and its fused
form in `fused/encoders`, each with one row in the table of its room. Nothing else asks which kind
an encoder is.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Tag, TypeAdapter

from autosam_deploy.encoders.base import Encoder
from autosam_deploy.encoders.tinyvit import TINYVITS, TinyVitEncoder
from autosam_deploy.encoders.vit import VITS, VitEncoder
from autosam_deploy.strict import parse_with

__all__ = ["ENCODERS", "Encoder", "EncoderSpec", "TinyVitEncoder", "VitEncoder", "parse_encoder"]


def _kind(value: Any) -> str:
    # Files from before there were kinds hold ViTs and do not say so.
    if isinstance(value, dict):
        return str(value.get("kind", "vit"))
    return str(getattr(value, "kind", "vit"))


#: An encoder of any kind, told apart by `kind`.
EncoderSpec = Annotated[
    Annotated[VitEncoder, Tag("vit")] | Annotated[TinyVitEncoder, Tag("tinyvit")],
    Discriminator(_kind),
]

#: Encoders that have a name.
ENCODERS: dict[str, EncoderSpec] = {one.name: one for one in (*VITS, *TINYVITS)}

_ADAPTER: TypeAdapter[Any] = TypeAdapter(EncoderSpec)


def parse_encoder(value: Any, *, what: str = "the image encoder") -> EncoderSpec:
    """Validate an encoder of any kind (see `strict.parse_spec`).

    Raises:
        SpecError: naming the first offending field.
    """
    found: EncoderSpec = parse_with(_ADAPTER, value, what=what)
    return found
