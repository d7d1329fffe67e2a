"""Speed against the native kernel, and the choice of operators that follows from it."""
