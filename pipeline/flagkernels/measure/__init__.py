"""Measure speed against the native kernels, and choose operators accordingly."""
