"""Programs that run in the base image of a rehearsal."""
