"""Used by normalize: decoding, geometry, splitting, duplicates and the statistics of pixels."""
