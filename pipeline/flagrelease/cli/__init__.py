"""The command line interface."""

from flagrelease.cli.app import main

__all__ = ["main"]
