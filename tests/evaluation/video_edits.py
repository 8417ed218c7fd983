"""Edits of videos with a known effect on metrics."""

import cv2
import numpy as np

from fantasytalking.evaluation.evaluation_clip import CLIP_SAMPLE_RATE, EvaluationClip


def with_frames(clip: EvaluationClip, frames: np.ndarray) -> EvaluationClip:
    """Returns a clip with other frames and the same audio."""
    return EvaluationClip.from_arrays(np.ascontiguousarray(frames), clip.fps, clip.audio, name=clip.name)


def freeze_frames(clip: EvaluationClip) -> EvaluationClip:
    """Repeats the first frame."""
    return with_frames(clip, np.repeat(clip.frames[:1], len(clip.frames), axis=0))


def brighten(clip: EvaluationClip, levels: float) -> EvaluationClip:
    """Adds a constant to all pixels."""
    return with_frames(clip, np.clip(clip.frames.astype(int) + round(levels), 0, 255).astype(np.uint8))


def shift_pixels(clip: EvaluationClip, right: int, down: int) -> EvaluationClip:
    """Shifts all frames by whole pixels and repeats the edge."""
    matrix = np.array([[1, 0, right], [0, 1, down]], np.float64)
    size = clip.frames.shape[2], clip.frames.shape[1]
    moved = [cv2.warpAffine(frame, matrix, size, borderMode=cv2.BORDER_REPLICATE) for frame in clip.frames]
    return with_frames(clip, np.stack(moved))


def delay_frames(clip: EvaluationClip, frames: int) -> EvaluationClip:
    """Delays the frames; the first one is repeated."""
    return with_frames(clip, np.concatenate([clip.frames[:1]] * frames + [clip.frames[: len(clip.frames) - frames]]))


def delay_audio(clip: EvaluationClip, frames: int) -> EvaluationClip:
    """Delays the audio by a number of frames, as a circular shift."""
    return clip.with_audio(np.roll(clip.audio, round(frames / clip.fps * CLIP_SAMPLE_RATE)))


def trim_to_shortest(*clips: EvaluationClip) -> list[EvaluationClip]:
    """Returns the beginnings of clips, with the length of the shortest."""
    count = min(len(clip.frames) for clip in clips)
    return [clip.slice_frames(slice(0, count)) for clip in clips]
