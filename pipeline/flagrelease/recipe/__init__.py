"""The description, as data, of how a release is started."""
