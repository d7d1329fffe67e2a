"""weights: fetch the model and verify every file."""
