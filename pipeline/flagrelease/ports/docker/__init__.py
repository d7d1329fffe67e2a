"""The Docker Engine port."""
