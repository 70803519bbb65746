"""Used by check: the rules of params.schema.json for all of params.yaml, and the messages about refused values."""
