"""Ablations on nano: rows, training, evaluation and statistics."""
