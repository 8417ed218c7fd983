"""Trainers of nano's components."""
