"""Provides the frozen encoders: Wan's VAE, text and image encoders, wav2vec2, ArcFace and expression encoders."""
