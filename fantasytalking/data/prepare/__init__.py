"""Prepares a corpus: converts videos to a manifest and feature files."""
