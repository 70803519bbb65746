"""Used by download and normalize: the table of data sets, one module for each kind, and data/raw/dataset/."""
