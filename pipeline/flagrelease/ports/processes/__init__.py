"""The executor for plain processes, without containers."""
