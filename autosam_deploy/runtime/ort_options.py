"""What backend `onnxruntime` can do beyond a `Request`, and what that makes of a session."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autosam_deploy.errors import BackendError
from autosam_deploy.runtime.nvidia.engine_cache import engine_cache
from autosam_deploy.runtime.options import in_words


@dataclass(frozen=True)
class OrtOptions:
    """Options of ONNX Runtime that change time and memory, never results.

    cache: folder in which the TensorRT providers keep what they build; never in the bundle, whose
    members are hashed. None builds it in every process.
    prepared: folder for the graph as ONNX Runtime's CPU provider rewrites it when it loads, weights
    packed; mapped into memory, they are shared by processes (see `prepared`). None rewrites it in
    every process.
    arena: memory of a run stays with the session for the next one.
    mem_pattern: the memory of a run is planned from the run before it. None is off on the CPU,
    where plans cost memory (see `providers.open_session`), and on for GPUs.
    spinning: threads wait for work in a loop, ONNX Runtime's default. It is faster by the time that
    waking takes, and takes cores from other processes, and quota from a container, while it waits.
    dynamic_blocks: cut the work of an operator into ever smaller parts, at least this many for
    each thread, so that a slow or shared core does not keep the others waiting. 0 cuts evenly.
    """

    cache: Path | None = field(
        default_factory=engine_cache,
        metadata=in_words("folder in which the TensorRT providers keep what they build"),
    )
    prepared: Path | None = field(
        default=None,
        metadata=in_words("folder for graphs with packed weights: load sooner, share memory"),
    )
    arena: bool = field(
        default=True, metadata=in_words("keep the memory of a run for the next one")
    )
    mem_pattern: bool | None = field(
        default=None,
        metadata=in_words("plan memory from the run before; auto: for GPUs alone", none="auto"),
    )
    spinning: bool = field(
        default=True, metadata=in_words("threads wait in a loop, and take cores while they do")
    )
    dynamic_blocks: int = field(
        default=0, metadata=in_words("cut work finer, for unequal or shared cores: 4 is usual")
    )


def session_options(ort: Any, *, threads: int, provider: str, options: OrtOptions) -> Any:
    """Return ONNX Runtime's own options for a session.

    Args:
        ort: the `onnxruntime` module.
        threads: of the CPU, for one run.
        provider: a key of `providers.PROVIDERS`.
        options: what goes beyond that.

    Raises:
        BackendError: an option is out of range.
    """
    if options.dynamic_blocks < 0:
        raise BackendError("dynamic_blocks", got=str(options.dynamic_blocks), expected="0 or more")
    found = ort.SessionOptions()
    found.intra_op_num_threads = threads
    found.inter_op_num_threads = 1
    found.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    found.enable_cpu_mem_arena = options.arena
    # The plan that ONNX Runtime makes of the first run of a size is allocated as one block
    # beside the memory which that run left, from the second run on. ViT-B at 1024x1024, one
    # slice, 2 cores: 2.3 GB at the peak with plans, 1.5 GB without, no slower. (An arena that
    # shrinks after each run peaks as low there, but a small model took a third longer.)
    planned = provider != "cpu" if options.mem_pattern is None else options.mem_pattern
    found.enable_mem_pattern = planned
    if not options.spinning:
        found.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if options.dynamic_blocks:
        found.add_session_config_entry("session.dynamic_block_base", str(options.dynamic_blocks))
    return found
