"""Statistics of the verdicts. Pure. Imports numpy and scipy.special, so import it lazily."""
