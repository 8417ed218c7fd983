"""Videos made of others by changes whose effect is known."""

import cv2
import numpy as np

from fantasytalking.evaluation.evaluation_clip import SAMPLE_RATE, Clip


def with_frames(clip: Clip, frames: np.ndarray) -> Clip:
    """Other frames, the same sound."""
    return Clip.from_arrays(np.ascontiguousarray(frames), clip.fps, clip.sound, name=clip.name)


def frozen(clip: Clip) -> Clip:
    """The first frame all the time."""
    return with_frames(clip, np.repeat(clip.frames[:1], len(clip.frames), axis=0))


def brighter(clip: Clip, by: float) -> Clip:
    """Every level raised."""
    return with_frames(clip, np.clip(clip.frames.astype(int) + round(by), 0, 255).astype(np.uint8))


def moved(clip: Clip, right: int, down: int) -> Clip:
    """Every frame moved by so many pixels; its edge is repeated."""
    matrix = np.array([[1, 0, right], [0, 1, down]], np.float64)
    size = clip.frames.shape[2], clip.frames.shape[1]
    moved = [cv2.warpAffine(frame, matrix, size, borderMode=cv2.BORDER_REPLICATE) for frame in clip.frames]
    return with_frames(clip, np.stack(moved))


def delayed(clip: Clip, frames: int) -> Clip:
    """The pictures come so many frames late; the first one waits."""
    return with_frames(clip, np.concatenate([clip.frames[:1]] * frames + [clip.frames[: len(clip.frames) - frames]]))


def sound_later(clip: Clip, frames: int) -> Clip:
    """The sound comes so many frames late, rolled round."""
    return clip.with_sound(np.roll(clip.sound, round(frames / clip.fps * SAMPLE_RATE)))


def same_length(*clips: Clip) -> list[Clip]:
    """The beginnings of clips, as long as the shortest."""
    count = min(len(clip.frames) for clip in clips)
    return [clip.part(slice(0, count)) for clip in clips]
