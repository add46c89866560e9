"""Triton kernels of the fused segmenter for batches of slices on NVIDIA GPUs (sm80 and newer).

Each kernel is a pair of files: `x.py` checks, launches and holds the plain PyTorch reference,
`x_triton.py` holds the code that Triton compiles. Only the latter imports Triton, and only when a
kernel is asked for; this module imports nothing, so a core install can import it.
"""
