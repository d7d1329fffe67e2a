"""watching: check whether published releases are still what was published."""
