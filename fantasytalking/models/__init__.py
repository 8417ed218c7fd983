"""The transformer, its attention and modules, loading from Wan bases, and model presets."""
