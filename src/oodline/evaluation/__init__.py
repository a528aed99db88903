"""Metrics, and the evaluation of detectors on ID and OOD data sets."""
