"""What a stage is: its job, context, results and key."""
