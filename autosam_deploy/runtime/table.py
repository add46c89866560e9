"""The table of backends: one row each. Adding a backend is one file and one row."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from autosam_deploy.errors import BackendUnavailableError
from autosam_deploy.runtime.backend import Backend
from autosam_deploy.runtime.options import Option, describe, make_options

#: Name -> (module, class); modules are imported when the backend is asked for.
BACKENDS: dict[str, tuple[str, str]] = {
    "onnxruntime": ("autosam_deploy.runtime.ort", "OrtBackend"),
    "torch": ("autosam_deploy.runtime.pyt", "TorchBackend"),
    "openvino": ("autosam_deploy.runtime.ov", "OvBackend"),
    "tensorrt": ("autosam_deploy.runtime.trt", "TrtBackend"),
}

#: What `auto` means; the others are for those who ask.
DEFAULT = "onnxruntime"


def backend_class(name: str) -> type[Backend]:
    """Return a backend's class.

    Raises:
        BackendUnavailableError: there is no backend of that name.
    """
    if name not in BACKENDS:
        raise BackendUnavailableError(
            "unknown backend", got=repr(name), expected=" | ".join(("auto", *BACKENDS))
        )
    module, attribute = BACKENDS[name]
    found: type[Backend] = getattr(import_module(module), attribute)
    return found


def options_for(name: str, texts: Mapping[str, str]) -> dict[str, str]:
    """Return those of some options that a backend has.

    Raises:
        UsageError: one of them has a value that the backend does not take.
    """
    kind = backend_class(name).options_class
    known = {one.name for one in describe(kind)}
    found = {option: text for option, text in texts.items() if option in known}
    make_options(kind, found, backend=name)
    return found


def backend_options() -> dict[str, tuple[Option, ...]]:
    """Return what can be set by words, for every backend (see `runtime.options`)."""
    return {name: describe(backend_class(name).options_class) for name in BACKENDS}
