"""Volumes with their geometry: read, slice, write, preview, and a phantom."""
