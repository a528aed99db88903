"""Preprocessing of images for a model, and its comparison with the transforms of other libraries."""
