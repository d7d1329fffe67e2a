"""Helpers of the tests: stand-ins, toy cells and sample data."""
