"""The bundle of operators, tuned database and compiled kernels that ships for one kind of machine."""
