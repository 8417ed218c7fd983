"""Metrics of image and video quality."""
