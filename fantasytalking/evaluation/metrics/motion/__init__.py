"""Metrics of motion and naturalness."""
