"""SimpleITK, imported when the first volume is touched, and without its notes on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def simpleitk() -> Any:
    """Return the SimpleITK module; it takes a third of a second to import, `--help` needs none."""
    import SimpleITK

    return SimpleITK


@contextmanager
def quiet_itk() -> Iterator[None]:
    """Silence ITK's warnings (private tags, files that are not DICOM); errors still raise.

    What matters of them, missing slices and uneven spacing, is checked by this package itself.
    """
    process = simpleitk().ProcessObject
    shown = process.GetGlobalWarningDisplay()
    process.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        process.SetGlobalWarningDisplay(shown)
