"""Command lines of the library."""
