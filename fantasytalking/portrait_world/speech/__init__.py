"""Synthesizes speech and derives mouth shapes from phonemes."""
