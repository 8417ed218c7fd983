"""Finished videos against real ones: a frozen protocol, one file a metric, reports with floors and intervals."""
