"""Used by normalize: the machines of a Dask cluster."""
