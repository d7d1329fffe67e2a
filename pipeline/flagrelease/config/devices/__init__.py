"""Accelerators: what a vendor's tool reports, and whether that is what a release is for."""
