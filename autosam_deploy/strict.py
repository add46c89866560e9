"""Frozen, strict data: what specifications, manifests and records are made of. Free of torch."""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from autosam_deploy.errors import SpecError

_T = TypeVar("_T", bound=BaseModel)


class Strict(BaseModel):
    """Frozen, no coercion, unknown keys refused."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


Pair = Annotated[tuple[int, int], Field(strict=False)]
Triple = Annotated[tuple[float, float, float], Field(strict=False)]


def parse_spec(cls: type[_T], value: Any, *, what: str | None = None) -> _T:
    """Validate `value` (dict or JSON text) as `cls`, with a one-line error.

    Raises:
        SpecError: naming the first offending field, what it holds and what is expected.
    """
    parsed: _T = parse_with(TypeAdapter(cls), value, what=what or cls.__name__)
    return parsed


def parse_with(adapter: TypeAdapter[Any], value: Any, *, what: str) -> Any:
    """Validate `value` (dict or JSON text) by a type adapter, as `parse_spec` does.

    Raises:
        SpecError: as `parse_spec`.
    """
    try:
        if isinstance(value, str | bytes):
            return adapter.validate_json(value)
        return adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "value"
        shown = re.sub(r"\s+", " ", repr(first["input"]))[:80]
        raise SpecError(
            f"{what} is not valid at '{where}'", got=shown, expected=first["msg"]
        ) from error
