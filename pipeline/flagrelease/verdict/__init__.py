"""Judge answers as PASS, FAIL or INCONCLUSIVE by a non-inferiority test. Pure."""
