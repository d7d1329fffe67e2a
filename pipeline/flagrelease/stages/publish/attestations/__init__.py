"""The in-toto statements about a release: each is built from its record and evidence, without clock and network."""
