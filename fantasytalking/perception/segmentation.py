"""Segments the person in every frame with MediaPipe SelfieSegmentation."""

from collections.abc import Iterable, Iterator

import numpy as np

from fantasytalking.perception.mediapipe_graphs import create_selfie_segmentation


def iter_subject_masks(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yields an (H, W) float32 mask per (H, W, 3) uint8 RGB frame: the probability, [0, 1], that a pixel is the person.

    The frames must be those of one video in order: the model stabilizes each mask with the previous one.
    """
    model = create_selfie_segmentation()
    try:
        for frame in frames:
            yield np.array(model.process(np.ascontiguousarray(frame)).segmentation_mask, np.float32).clip(0, 1)
    finally:
        model.close()


def subject_masks(frames: np.ndarray) -> np.ndarray:
    """Returns (T, H, W) float32 probabilities in [0, 1] for (T, H, W, 3) uint8 RGB; see `iter_subject_masks`."""
    return np.stack(list(iter_subject_masks(frames)))
