"""Detectors, one per file, named for their papers; `catalog` lists them."""
