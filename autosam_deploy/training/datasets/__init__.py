"""Labelled data sets: found, paired, checked, split and cut into slices."""
