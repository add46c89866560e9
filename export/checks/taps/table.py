"""Which backends can be looked into."""

from __future__ import annotations

from autosam_deploy.export.checks.taps.ort import OrtTaps
from autosam_deploy.export.checks.taps.ov import OvTaps
from autosam_deploy.export.checks.taps.runner import TapRunner
from autosam_deploy.export.checks.taps.trt import TrtTaps

#: Backend -> what runs tapped graphs on it.
RUNNERS: dict[str, type[TapRunner]] = {runner.name: runner for runner in (OrtTaps, OvTaps, TrtTaps)}
