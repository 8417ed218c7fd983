"""Benchmarks: protocols frozen from a dataset, with their clips, crops, drivers and reference videos."""
