"""Taps on OpenVINO."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autosam_deploy.bundle.manifest import Artefact
from autosam_deploy.errors import BackendError
from autosam_deploy.export.checks.taps.runner import TapRunner
from autosam_deploy.runtime.backend import BackendInfo, memory_error
from autosam_deploy.runtime.ov import OvBackend
from autosam_deploy.runtime.ov_model import Chain, Settings, import_openvino, read_graph


class OvTaps(TapRunner):
    """OpenVINO on the CPU in float32.

    bf16 is OpenVINO's own rounding of the float32 graph, and no record says what it may change.
    """

    name = "openvino"

    def _choose(self) -> Artefact:
        # The backend itself says what it makes of the request.
        backend = OvBackend(self.bundle, self.request)
        self._chosen = backend.info
        backend.close()
        if self._chosen.precision != "fp32":
            raise BackendError(
                "blocks on backend 'openvino' are compared in fp32",
                got=self._chosen.precision,
                todo="use --precision fp32",
            )
        return self._graph(self._chosen)

    def _open(self, graph: Path) -> BackendInfo:
        ov = import_openvino()
        settings = Settings(threads=self._chosen.threads)
        self._chain = Chain(ov, read_graph(ov, graph), self._chosen.precision, settings)
        return self._chosen

    def _run(
        self, slices: NDArray[np.float32], names: tuple[str, ...]
    ) -> Mapping[str, NDArray[Any]]:
        try:
            found = self._chain.run({"slices": slices})
            # What it returns is memory of its own.
            return {name: np.array(found[name]) for name in names}
        except Exception as error:
            # OpenVINO's exceptions share no base class of their own.
            if full := memory_error(slices, error):
                raise full from error
            raise BackendError("OpenVINO failed", got=str(error)[-300:]) from error

    def _close(self) -> None:
        self._chain.close()
