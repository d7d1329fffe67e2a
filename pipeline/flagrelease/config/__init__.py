"""matrix.yaml and matrix.lock, and the tables of the names they may use."""
