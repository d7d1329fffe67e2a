"""Executors: inline and Prefect."""
