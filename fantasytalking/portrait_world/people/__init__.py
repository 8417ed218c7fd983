"""Who people are: identity, geometry and textures."""
