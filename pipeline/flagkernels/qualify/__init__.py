"""Judge each operator against float64, in a process of its own."""
