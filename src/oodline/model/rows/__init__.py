"""Models that give one decision per pixel, token or box: how their rows are read, and judged per input."""
