"""Turns a chip × model matrix into published, provably equivalent LLM serving images."""

__version__ = "0.1.0"
