"""The harness of `autosam-bench`: parity, latency and memory, each row in a process of its own."""
