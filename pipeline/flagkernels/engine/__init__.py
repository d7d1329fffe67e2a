"""Start engines with a bundle, and activate and observe operators inside their processes."""
