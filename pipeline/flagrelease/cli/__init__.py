"""The command line."""

from flagrelease.cli.app import main

__all__ = ["main"]
