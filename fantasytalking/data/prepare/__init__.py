"""Prepares a corpus: from videos to a manifest and feature files."""
