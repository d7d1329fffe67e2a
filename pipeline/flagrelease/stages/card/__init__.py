"""card: render the model card from the record and lint it."""
