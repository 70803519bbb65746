"""Used by check: the whole of params.yaml against params.schema.json, and the messages about what is wrong."""
