"""What belongs to a model before its first layer: its preprocessing, and the libraries' own transforms read as such."""
