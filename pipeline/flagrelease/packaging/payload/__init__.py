"""Programs for the image. They run on its Python and import nothing from flagrelease."""
