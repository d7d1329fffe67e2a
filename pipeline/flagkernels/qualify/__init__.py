"""Whether an operator is correct, judged against float64 in a process of its own."""
