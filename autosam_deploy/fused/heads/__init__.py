"""The three heads rearranged: embedding, channels last (B, Sh, Sw, C) -> low-res logits."""
