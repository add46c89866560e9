"""The builder's own progress on the terminal."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.progress import Progress, TaskID


def make_monitor(module: Any, progress: Progress) -> Any:
    """Return a progress monitor that draws the builder's phases.

    Its `cancelled` stops the builder at the next step (see `stopped_by_user`).

    Args:
        module: the family's library.
        progress: a started rich progress display.
    """

    class Monitor(module.IProgressMonitor):  # type: ignore[misc]
        """Called by the builder, from any of its threads."""

        def __init__(self) -> None:
            super().__init__()
            self.cancelled = False
            self._tasks: dict[str, TaskID] = {}
            self._lock = threading.Lock()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            """Show a phase."""
            with self._lock:
                indent = "  " if parent_phase in self._tasks else ""
                self._tasks[phase_name] = progress.add_task(indent + phase_name, total=num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            """Move on; False asks the builder to stop."""
            with self._lock:
                if phase_name in self._tasks:
                    progress.update(self._tasks[phase_name], completed=step + 1)
            return not self.cancelled

        def phase_finish(self, phase_name: str) -> None:
            """Hide a phase that is done."""
            with self._lock:
                if (task := self._tasks.pop(phase_name, None)) is not None:
                    progress.remove_task(task)

    return Monitor()


@contextmanager
def stopped_by_user(monitor: Any) -> Iterator[None]:
    """Let Ctrl-C stop the builder; KeyboardInterrupt is raised once it has returned.

    Python raises nothing while the builder's own code runs, and an exception out of a callback
    would be lost in it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        del number, frame
        monitor.cancelled = True

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if monitor.cancelled:
        raise KeyboardInterrupt
