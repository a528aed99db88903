"""What belongs to a model: preprocessing, its head, and what stands in for a model where features are given."""
