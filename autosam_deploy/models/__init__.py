"""Reference models in plain PyTorch: the truth that parity is measured against."""
