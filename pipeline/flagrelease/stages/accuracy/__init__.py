"""accuracy: ask the served image and the baseline the same questions."""
