"""From a trained head and SAM's encoder to a bundle with proven graphs."""
