"""Take cells through the stages: plan, execute, keep the ledger."""
