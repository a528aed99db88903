"""From detectors to scores, thresholds and p-values, and what watches them."""
