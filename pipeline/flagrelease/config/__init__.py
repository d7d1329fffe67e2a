"""matrix.yaml and matrix.lock, and the tables that say what a name in them may be."""
