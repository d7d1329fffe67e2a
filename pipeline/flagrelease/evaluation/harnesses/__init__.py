"""The harnesses that ask the questions, behind one door."""
