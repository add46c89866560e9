"""The frozen encoder's work, done once: views of slices, their embeddings, the cache."""
