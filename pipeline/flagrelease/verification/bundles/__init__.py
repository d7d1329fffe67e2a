"""A release in one folder, for a machine without network: made from the registry, and checked again."""
