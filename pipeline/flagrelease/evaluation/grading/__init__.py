"""Grade replies."""
