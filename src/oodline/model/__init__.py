"""Classifiers: model, head, activations and hooks; precomputed features in place of a model."""
