"""The three heads: autosam, cnn, linear."""
