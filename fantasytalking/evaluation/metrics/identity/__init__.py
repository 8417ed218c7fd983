"""Metrics of identity preservation."""
