"""Operators: registry, catalogue, calls, and overrides of the native kernels."""
