"""image: build the serving image and push it by digest."""
