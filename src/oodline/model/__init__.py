"""What belongs to a model: preprocessing before its first layer, and what stands in for it where features are given."""
