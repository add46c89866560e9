"""Head training on the frozen encoder's embeddings."""
