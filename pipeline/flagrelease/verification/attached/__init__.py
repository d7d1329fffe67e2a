"""Check what is attached to the image of a release: signatures and statements."""
