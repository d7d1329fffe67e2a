"""Find the fastest candidate of each kernel and store it in FlagGems' database."""
