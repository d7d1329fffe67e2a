"""Find the operators that made the answers worse."""
