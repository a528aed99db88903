"""Helpers that many modules use, and that know nothing of classifiers."""
