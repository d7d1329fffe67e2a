"""Judge each operator against float64, each in a separate process."""
