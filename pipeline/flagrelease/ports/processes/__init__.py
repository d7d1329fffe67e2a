"""Programs run as plain processes, without containers."""
