"""How a release is started, as data."""
