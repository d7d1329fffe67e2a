"""A served image for the length of a block."""
