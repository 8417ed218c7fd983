"""Videos made of others by changes whose effect is known."""

import cv2
import numpy as np

from fantasytalking.evaluation.evaluation_clip import CLIP_SAMPLE_RATE, EvaluationClip


def with_frames(clip: EvaluationClip, frames: np.ndarray) -> EvaluationClip:
    """Other frames, the same sound."""
    return EvaluationClip.from_arrays(np.ascontiguousarray(frames), clip.fps, clip.audio, name=clip.name)


def freeze_frames(clip: EvaluationClip) -> EvaluationClip:
    """The first frame all the time."""
    return with_frames(clip, np.repeat(clip.frames[:1], len(clip.frames), axis=0))


def brighten(clip: EvaluationClip, levels: float) -> EvaluationClip:
    """Every level raised."""
    return with_frames(clip, np.clip(clip.frames.astype(int) + round(levels), 0, 255).astype(np.uint8))


def shift_pixels(clip: EvaluationClip, right: int, down: int) -> EvaluationClip:
    """Every frame moved by so many pixels; its edge is repeated."""
    matrix = np.array([[1, 0, right], [0, 1, down]], np.float64)
    size = clip.frames.shape[2], clip.frames.shape[1]
    moved = [cv2.warpAffine(frame, matrix, size, borderMode=cv2.BORDER_REPLICATE) for frame in clip.frames]
    return with_frames(clip, np.stack(moved))


def delay_frames(clip: EvaluationClip, frames: int) -> EvaluationClip:
    """The pictures come so many frames late; the first one waits."""
    return with_frames(clip, np.concatenate([clip.frames[:1]] * frames + [clip.frames[: len(clip.frames) - frames]]))


def delay_audio(clip: EvaluationClip, frames: int) -> EvaluationClip:
    """The sound comes so many frames late, rolled round."""
    return clip.with_audio(np.roll(clip.audio, round(frames / clip.fps * CLIP_SAMPLE_RATE)))


def trim_to_shortest(*clips: EvaluationClip) -> list[EvaluationClip]:
    """The beginnings of clips, as long as the shortest."""
    count = min(len(clip.frames) for clip in clips)
    return [clip.slice_frames(slice(0, count)) for clip in clips]
