"""Weights files: recognise every known layout, read it strictly, write our own."""
