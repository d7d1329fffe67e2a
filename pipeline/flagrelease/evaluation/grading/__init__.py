"""Extract answers from replies and grade them."""
