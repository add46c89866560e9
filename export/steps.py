"""Progress of long work: every step with its name and time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console


@dataclass
class Steps:
    """Shows steps as they run and keeps their seconds by name."""

    console: Console
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step; on a terminal it shows a spinner while it runs."""
        start = time.perf_counter()
        with self.console.status(f"{name} ..."):
            yield
        self.seconds[name] = time.perf_counter() - start
        self.console.print(f"  {name:<44} {self.seconds[name]:7.1f} s", highlight=False)
