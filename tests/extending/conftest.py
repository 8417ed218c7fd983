"""Fixtures: portraits, and a fresh accelerate state per test."""

from tests.helpers.tiny_pipeline import couple, one_thread, portrait
from tests.training.conftest import fresh_accelerate

__all__ = ["couple", "fresh_accelerate", "one_thread", "portrait"]
