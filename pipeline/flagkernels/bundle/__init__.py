"""The artefact that ships: operators, database and compiled kernels, for one kind of machine."""
