"""The fastest candidate of each kernel, stored where FlagGems looks for it."""
