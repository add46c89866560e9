"""What runs a bundle: one file per backend, one table of backends, one public Engine."""
