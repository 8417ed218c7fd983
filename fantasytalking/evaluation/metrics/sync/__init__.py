"""Metrics of lip synchronization."""
