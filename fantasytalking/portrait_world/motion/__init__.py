"""Facial, head and shoulder motion over time."""
