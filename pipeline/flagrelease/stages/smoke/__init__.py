"""smoke: start the pushed image and check that it answers."""
