"""The model without its weights: architecture, traced calls, sampling and likelihoods."""
