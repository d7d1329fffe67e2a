"""Files kept on disk: evidence, ledger, locks, workspace."""
