"""How a model's images are prepared, compared with the transforms of its library."""
