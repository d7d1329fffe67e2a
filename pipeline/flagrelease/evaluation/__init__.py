"""Evaluate served models: benchmark data, questions, harnesses, grading and baselines."""
