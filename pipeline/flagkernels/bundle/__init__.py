"""What ships: operators, database and compiled kernels, with the machine that they fit."""
