"""Model repositories of Triton Inference Server, made from bundles."""
