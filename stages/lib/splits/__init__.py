"""Used by normalize, cache, train and evaluate: a split on disk, and the description of its data."""
