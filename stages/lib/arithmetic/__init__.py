"""Used by train and evaluate: the same bits on every processor, with any number of threads and processes."""
