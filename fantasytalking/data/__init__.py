"""Prepares corpora of talking videos and loads them as training batches."""
