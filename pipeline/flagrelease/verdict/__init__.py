"""From answers to PASS, FAIL or INCONCLUSIVE: a non-inferiority test with a margin. Pure."""
