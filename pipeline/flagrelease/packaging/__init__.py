"""The parts that images are made of."""
