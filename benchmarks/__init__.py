"""Parity, latency and memory of every backend, and comparisons with peers."""
