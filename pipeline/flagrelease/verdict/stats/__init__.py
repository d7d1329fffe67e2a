"""The statistics behind the verdicts. Pure; numpy and scipy.special only, so import it where it is used."""
