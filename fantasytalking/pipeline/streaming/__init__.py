"""Streams a video window by window while the audio is still arriving."""
