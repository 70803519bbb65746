"""Used by evaluate: metrics, the evaluation of a classification or a regression, and pictures."""
