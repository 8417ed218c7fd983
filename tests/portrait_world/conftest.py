"""Fixtures of the portrait-world tests."""

import cv2
import pytest


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """As in a corpus that is made: small pictures gain nothing from more, and wait for each other on busy cores."""
    cv2.setNumThreads(1)
