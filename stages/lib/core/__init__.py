"""Used by every stage: errors, how a process ends, locks, files, sealed JSON, parameters."""

SPLITS = ("train", "val", "test")
