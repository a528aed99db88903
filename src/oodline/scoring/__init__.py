"""Scores, thresholds and p-values, and the monitoring of scores for drift."""
