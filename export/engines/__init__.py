"""TensorRT and TensorRT-RTX engines for a bundle: built from its own graphs, checked, recorded."""
