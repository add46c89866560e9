"""Fitting a head on embeddings: recipe, steps, resuming, scores."""
