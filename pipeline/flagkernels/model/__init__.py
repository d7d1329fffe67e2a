"""Models built from config.json: architecture, traced calls, sampling and log-probabilities."""
