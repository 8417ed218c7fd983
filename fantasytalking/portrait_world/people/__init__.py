"""Identities, geometry and textures of people."""
