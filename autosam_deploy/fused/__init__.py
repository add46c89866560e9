"""The segmenter rearranged for speed: the same function, exact in real arithmetic."""
