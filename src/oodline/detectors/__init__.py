"""Detectors, one a file, named for their papers; `catalog` lists them."""
