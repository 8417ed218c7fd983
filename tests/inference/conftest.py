"""Fixtures of the tiny model with random weights."""

from tests.helpers.tiny_pipeline import (
    adapters,
    base,
    couple,
    driven,
    expressive,
    face_picture,
    fast,
    one_thread,
    pipe,
    portrait,
    saved,
)

__all__ = [
    "adapters",
    "base",
    "couple",
    "driven",
    "expressive",
    "face_picture",
    "fast",
    "one_thread",
    "pipe",
    "portrait",
    "saved",
]
