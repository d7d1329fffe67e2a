"""Harnesses: they send the questions to an endpoint. Chosen by choose.py."""
