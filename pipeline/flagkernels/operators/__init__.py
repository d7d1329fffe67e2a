"""Operators: their registration, their calls, and how they replace native kernels."""
