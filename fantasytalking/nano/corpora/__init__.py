"""Training corpora of nano's components."""
