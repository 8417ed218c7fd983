"""Evaluation of generated videos: frozen benchmarks, one file per metric, reports with confidence intervals."""
