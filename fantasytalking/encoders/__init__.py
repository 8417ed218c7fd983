"""Provides the frozen encoders: Wan's VAE, text and image encoders, audio encoders, ArcFace and expression encoders."""
