"""Benchmarks: protocols frozen from a dataset, their clips, crops, drivers and reference videos."""
