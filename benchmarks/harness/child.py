"""A process of its own for everything that is measured, and a line of JSON each way.

A child that dies, hangs or runs out of memory costs its own row and nothing else.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Literal

from autosam_deploy.errors import AutosamError
from autosam_deploy.files import write_json

Kind = Literal["unavailable", "failed"]
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
#: Lines of a child's stderr that say what happened.
_LAST = 300


class ChildError(AutosamError):
    """A child that could not do what it was asked. `kind`: unavailable is no fault of the row."""

    def __init__(self, what: str, *, kind: Kind = "failed", got: str | None = None) -> None:
        """Take the message of `AutosamError` and the kind."""
        super().__init__(what, got=got)
        self.kind = kind


class Child:
    """A started child. It answers once after loading, and then once a command."""

    def __init__(self, module: str, job: dict[str, Any], folder: Path, *, threads: int) -> None:
        """Start `python -m module folder/job.json`.

        Args:
            module: dotted name.
            job: JSON values; the moment of the start is added as `started`.
            folder: for the job and the child's stderr.
            threads: what libraries may start, by their variables.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "stderr.txt"
        command = [sys.executable, "-m", module, str(folder / "job.json")]
        environment = {**os.environ, **dict.fromkeys(_THREAD_VARIABLES, str(threads))}
        with self.log.open("wb") as log:
            write_json(folder / "job.json", {**job, "started": time.monotonic()})
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
            )
        self._lines: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        if self.process.stdout is not None:
            for line in self.process.stdout:
                self._lines.put(line)
        self._lines.put(b"")

    def ask(self, command: dict[str, Any], *, timeout: float) -> dict[str, Any]:
        """Send a command and return the answer (see `answer`)."""
        try:
            if self.process.stdin is not None:
                self.process.stdin.write(json.dumps(command).encode() + b"\n")
                self.process.stdin.flush()
        except OSError:
            # It is dead; `answer` finds out how.
            return self.answer(timeout=timeout)
        return self.answer(timeout=timeout)

    def answer(self, *, timeout: float) -> dict[str, Any]:
        """Wait for the next answer.

        Raises:
            ChildError: it says so itself, died, or does not answer in time (it is killed then).
        """
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            self.close()
            raise ChildError(f"no answer within {timeout:g} s; the process was ended") from None
        if not line:
            raise self._died()
        try:
            found: dict[str, Any] = json.loads(line)
        except ValueError as error:
            self.close()
            raise ChildError("the process answers no JSON", got=repr(line[:80])) from error
        if "error" in found:
            raise ChildError(found["error"], kind=found.get("kind", "failed"))
        return found

    def _died(self) -> ChildError:
        code = self.process.wait()
        if code < 0:
            try:
                name = signal.Signals(-code).name
            except ValueError:
                name = str(-code)
            hint = " (often: no memory left)" if name == "SIGKILL" else ""
            return ChildError(f"the process was ended by {name}{hint}", got=self._last_words())
        return ChildError(f"the process ended with exit code {code}", got=self._last_words())

    def _last_words(self) -> str | None:
        try:
            lines = self.log.read_text("utf-8", "replace").strip().splitlines()
        except OSError:
            return None
        return lines[-1][-_LAST:] if lines else None

    def close(self) -> None:
        """End it, whatever it is doing."""
        self.process.kill()
        self.process.wait()
        if self.process.stdin is not None:
            try:
                self.process.stdin.close()
            except OSError:  # what was still to be written has no reader any more
                return


def export_plain_apart(bundle: Path, target: Path, *, timeout: float) -> None:
    """Write a plain export of a bundle's segmenter in a process that ends with it.

    Exporting takes more memory than running, and would be counted as whose does it.

    Raises:
        ChildError: it failed, or did not end in time.
    """
    module = "autosam_deploy.benchmarks.peers.plain"
    try:
        done = subprocess.run(
            [sys.executable, "-m", module, str(bundle), str(target)],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        raise ChildError("the plain export did not end in time") from None
    if done.returncode or not target.is_file():
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise ChildError(f"the plain export failed: {last[0][:300]}")


def open_channel() -> Any:
    """Return what a child answers on: its stdout, which nothing else can write to any more.

    Libraries print to stdout when it suits them; from here on that goes to stderr.
    """
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return channel


def say(channel: Any, value: dict[str, Any]) -> None:
    """Answer with one line."""
    channel.write(json.dumps(value) + "\n")
    channel.flush()
