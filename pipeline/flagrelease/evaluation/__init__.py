"""What is asked and how an answer is graded. Pure but for data.py, which reads files."""
