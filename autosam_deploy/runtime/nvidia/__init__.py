"""What NVIDIA's runtimes share: driver and device, engines and their plans, contexts, caches."""
