"""Renders clips and writes corpora of them."""
