"""publish: make a release visible, digest first and tag last."""
