"""verification: check a finished release again, offline and without inference."""
