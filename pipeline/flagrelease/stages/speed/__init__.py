"""speed: measure throughput and latency next to the native stack."""
