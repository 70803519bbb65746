"""Used by train and evaluate: networks, the model file, tensors, inference, devices and process groups."""
