"""Used by train: batches, augmentation, losses, optimizers, schedules, initial weights and checkpoints."""
