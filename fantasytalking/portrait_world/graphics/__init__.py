"""A small software renderer: meshes, rasterization, image operations."""
