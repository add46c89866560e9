"""Errors of the project: one line that says what was got, what was expected and what to do.

Every command line turns an `AutosamError` into that line on stderr and exit code 2; a traceback is
shown only with `--debug`.
"""

from __future__ import annotations


class AutosamError(Exception):
    """Base of every error this project raises on purpose."""

    exit_code = 2

    def __init__(
        self,
        what: str,
        *,
        got: str | None = None,
        expected: str | None = None,
        todo: str | None = None,
    ) -> None:
        """Join the parts into one line.

        Args:
            what: the thing that is wrong, as a clause ("checkpoint 'x.pth' cannot be read").
            got: what was found.
            expected: what would have been right.
            todo: what the user can do about it, as an imperative.
        """
        parts = [what]
        if got is not None:
            parts.append(f"got {got}")
        if expected is not None:
            parts.append(f"expected {expected}")
        if todo is not None:
            parts.append(todo)
        # Messages are promised to be one line; quoted library errors often are not.
        super().__init__("; ".join(" ".join(part.split()) for part in parts))


class UsageError(AutosamError):
    """Arguments that contradict each other or name something that does not exist."""


class SpecError(AutosamError):
    """A specification (encoder, head, preprocessing, tensor) that is not valid."""


class MissingExtraError(AutosamError):
    """A feature needs a package that the core install leaves out."""


class CheckpointError(AutosamError):
    """A weights file that cannot be read, recognised or combined with another."""


class VolumeError(AutosamError):
    """An image or label file that is not one readable 3-D scalar volume."""


class OutputError(AutosamError):
    """A result that cannot be written (permissions, full disk, name taken)."""


class BundleError(AutosamError):
    """A bundle that is incomplete, altered, unsafe or of another schema version."""


class ExportError(AutosamError):
    """A model that cannot be turned into a graph as asked."""


class ParityError(AutosamError):
    """An artefact that does not agree with the reference segmenter within its gate."""


class TrainingError(AutosamError):
    """Training that cannot go on: a loss that is not a number, a head that died."""


class BackendError(AutosamError):
    """Base of the errors of a backend."""


class BackendUnavailableError(BackendError):
    """The library of a backend is not installed or cannot be loaded."""


class DeviceUnavailableError(BackendError):
    """The backend is there, the device that was asked for is not."""


class BackendInputError(BackendError):
    """A tensor handed to a backend has the wrong name, shape, dtype or values."""


class OutOfMemoryError(BackendError):
    """The device could not hold the batch."""
