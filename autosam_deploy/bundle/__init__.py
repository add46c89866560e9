"""The bundle: manifest, hashes, atomic write; all that crosses from export to runtime."""
