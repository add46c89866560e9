"""Which lowering of attention a graph is written in: by precision, from what was measured.

ViT-B at 1024x1024, autosam head, one slice -> labels, 2 cores of an AMD EPYC with AVX512-BF16; time
turn by turn and peak MiB of the process (`make lowerings`; docs/cpu.md, docs/results):

================  =========  ============  ============  ============
runs it           precision  explicit      masked        augmented
================  =========  ============  ============  ============
ONNX Runtime      fp32       1     1,521   0.99  1,303   1.37  1,308
OpenVINO          fp32       1     1,988   0.74  1,336   0.94  1,246
OpenVINO          bf16       1     1,468   0.93  1,179   1.43  1,759
TensorRT-RTX      fp16       844           449           92            (MB a slice that it plans)
TensorRT-RTX      fp32       1,689         no engine     no engine
================  =========  ============  ============  ============

CPUs read the float32 graph (OpenVINO makes its bf16 of it), GPUs the one in low precision.
"""

from __future__ import annotations

from autosam_deploy.export.graph import check_opset
from autosam_deploy.fused.attention import LOWERINGS

#: Of the float32 graph, where nothing speaks against it.
FLOAT_LOWERING = "masked"
#: What older runtimes and float32 engines need.
PORTABLE_LOWERING = "explicit"
#: Of graphs in low precision.
LOW_PRECISION_LOWERING = "augmented"

AUTO = "auto"


def float_lowering(asked: str, *, opset: int | None, engine: bool) -> str:
    """Return the lowering of the float32 graph.

    Args:
        asked: a key of `LOWERINGS`, or "auto": the fastest on CPUs that can be written.
        opset: that is asked for, None for none.
        engine: whether an engine will be built from that graph.

    Raises:
        ExportError: it cannot be written in that opset.
    """
    chosen = asked
    if asked == AUTO:
        # TensorRT has no fused attention in float32.
        old = opset is not None and opset < LOWERINGS[FLOAT_LOWERING].lowest_opset
        chosen = PORTABLE_LOWERING if old or engine else FLOAT_LOWERING
    if opset is not None:
        check_opset(opset, chosen)
    return chosen
