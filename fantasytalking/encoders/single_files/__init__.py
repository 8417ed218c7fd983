"""Encoders of Wan in single files: the originals, repacks and quantized ones, built without a configuration."""
