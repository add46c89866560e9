"""Optional packages: imported where they are needed, with an error that names the extra."""

from __future__ import annotations

import importlib
from types import ModuleType

from autosam_deploy.errors import MissingExtraError


def require(module: str, *, extra: str, feature: str) -> ModuleType:
    """Import an optional package.

    Args:
        module: dotted name to import ("onnx").
        extra: the extra of autosam-deploy that installs it ("export").
        feature: what the user was doing, as a noun phrase ("exporting a bundle").

    Returns:
        The imported module.

    Raises:
        MissingExtraError: the package cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{feature} needs the package '{module.partition('.')[0]}'",
            got=f"{type(error).__name__}: {error}",
            todo=f"run: pip install 'autosam-deploy[{extra}]'",
        ) from error
