"""What an operator is: its registration, its calls, and how it replaces a native kernel."""
