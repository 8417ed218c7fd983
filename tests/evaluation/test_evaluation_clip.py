"""Clips read what they are asked for, once, and their parts agree with them."""

import numpy as np
import pytest

from fantasytalking.common.errors import InputError
from fantasytalking.evaluation.evaluation_clip import CLIP_SAMPLE_RATE, CropAndResize, EvaluationClip
from tests.evaluation.conftest import SIZE


def test_a_clip_has_frames_sound_and_a_face(clips: list[EvaluationClip]) -> None:
    clip = clips[0]
    assert clip.frames.shape[1:] == (SIZE, SIZE, 3)
    assert clip.fps == 25
    assert abs(len(clip.audio) / CLIP_SAMPLE_RATE - len(clip.frames) / 25) < 0.05
    assert clip.track.present.mean() > 0.95
    assert clip.track is clip.track
    assert clip.face_crops(32).shape == (len(clip.frames), 32, 32, 3)


def test_parts_share_the_track(clips: list[EvaluationClip]) -> None:
    whole = clips[0]
    second, odd = whole.slice_frames(slice(10, None)), whole.slice_frames(slice(1, None, 2))
    assert np.array_equal(second.frames, whole.frames[10:])
    assert second.times[0] == 0
    assert np.array_equal(second.track.landmarks, whole.track.landmarks[10:])
    assert np.array_equal(second.audio, whole.audio[round(10 / 25 * CLIP_SAMPLE_RATE) :])
    assert odd.fps == 12.5
    assert np.array_equal(odd.track.landmarks, whole.track.landmarks[1::2])
    assert len(odd.track.times) == len(odd.frames) == len(whole.frames) // 2


def test_a_stretch_of_a_file_is_cropped_and_scaled(clips: list[EvaluationClip]) -> None:
    path = clips[0].path
    assert path is not None
    frame = CropAndResize((0.25, 0.0, 0.5, 0.5), 64, 64)
    stretch = EvaluationClip.from_file(path, fps=25, start=0.2, duration=0.4, transform=frame)
    assert stretch.frames.shape == (10, 64, 64, 3)
    assert len(stretch.audio) == round(0.4 * CLIP_SAMPLE_RATE)
    plain = clips[0].frames[5:15, :48, 24:72]
    assert np.abs(stretch.frames[:, ::4, ::4].astype(int) - plain[:, ::3, ::3]).mean() < 8
    with pytest.raises(InputError, match="crop"):
        _ = EvaluationClip.from_file(path, transform=CropAndResize((0.8, 0.0, 0.5, 0.5), 64, 64)).frames


def test_what_is_not_there_is_said(clips: list[EvaluationClip]) -> None:
    grey = EvaluationClip.from_arrays(np.full((6, 64, 64, 3), 128, np.uint8), 25.0, name="grey")
    assert not grey.has_face
    assert np.isnan(grey.track.landmarks).all()
    with pytest.raises(InputError, match="grey"):
        _ = grey.audio
    other = clips[0].with_audio(clips[1].audio)
    assert np.array_equal(other.track.landmarks, clips[0].track.landmarks, equal_nan=True)
    common = min(len(other.audio), len(clips[1].audio))
    assert np.array_equal(other.audio[:common], clips[1].audio[:common])
