"""Programs that go into the image. They run on its Python alone and import nothing of flagrelease."""
