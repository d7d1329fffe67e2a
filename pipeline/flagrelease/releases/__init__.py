"""Releases after they were published: their figures, their differences, and what was said about them since."""
