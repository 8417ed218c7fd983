"""Metrics of expression-driven reenactment."""
