"""Folder for PYTHONPATH, not a package to import: its sitecustomize.py runs at the start of every interpreter."""
