"""The contract of a stage: job, context, result and key."""
