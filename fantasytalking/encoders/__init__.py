"""The frozen encoders: Wan's VAE, text and image encoders, wav2vec2 for sound, ArcFace for identity."""
