"""Runs a model of random weights in the published layouts and sizes, to measure memory and time before a download."""
