"""The metrics, one per file; the registry imports every module of these folders."""
