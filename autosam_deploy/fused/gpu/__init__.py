"""The typed fused segmenter rearranged once more, for PyTorch on NVIDIA GPUs, with own kernels."""
