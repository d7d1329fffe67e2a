"""Files on disk: evidence, ledger, locks, workspace."""
