"""image: assemble the serving image and send it by digest."""
