"""Renders a person and the scene around them."""
