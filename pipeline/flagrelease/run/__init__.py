"""Run cells through the stages: plan, execute and record in the ledger."""
