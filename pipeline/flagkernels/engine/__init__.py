"""Code that runs inside a serving engine's processes, and starts engines with it."""
