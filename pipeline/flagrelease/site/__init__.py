"""The index: a static site that shows all cells, their releases and the evidence of each verdict."""
