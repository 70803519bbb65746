"""Used by evaluate: metrics, the evaluation of a classifier or a regression, and the picture of its mistakes."""
