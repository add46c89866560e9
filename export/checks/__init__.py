"""Checks of a bundle on the machine at hand: golden slices, engine runs, block by block."""
