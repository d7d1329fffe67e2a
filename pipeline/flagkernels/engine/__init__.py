"""What runs inside a serving engine's processes."""
