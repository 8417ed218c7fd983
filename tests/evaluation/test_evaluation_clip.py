"""Clips read what they are asked for, once, and their parts agree with them."""

import numpy as np
import pytest

from fantasytalking.common.errors import InputError
from fantasytalking.evaluation.evaluation_clip import SAMPLE_RATE, Clip, Frame
from tests.evaluation.conftest import SIZE


def test_a_clip_has_frames_sound_and_a_face(clips: list[Clip]) -> None:
    clip = clips[0]
    assert clip.frames.shape[1:] == (SIZE, SIZE, 3)
    assert clip.fps == 25
    assert abs(len(clip.sound) / SAMPLE_RATE - len(clip.frames) / 25) < 0.05
    assert clip.track.present.mean() > 0.95
    assert clip.track is clip.track
    assert clip.face_crops(32).shape == (len(clip.frames), 32, 32, 3)


def test_parts_share_the_track(clips: list[Clip]) -> None:
    whole = clips[0]
    second, odd = whole.part(slice(10, None)), whole.part(slice(1, None, 2))
    assert np.array_equal(second.frames, whole.frames[10:])
    assert second.times[0] == 0
    assert np.array_equal(second.track.landmarks, whole.track.landmarks[10:])
    assert np.array_equal(second.sound, whole.sound[round(10 / 25 * SAMPLE_RATE) :])
    assert odd.fps == 12.5
    assert np.array_equal(odd.track.landmarks, whole.track.landmarks[1::2])
    assert len(odd.track.times) == len(odd.frames) == len(whole.frames) // 2


def test_a_stretch_of_a_file_is_cropped_and_scaled(clips: list[Clip]) -> None:
    path = clips[0].path
    assert path is not None
    frame = Frame((0.25, 0.0, 0.5, 0.5), 64, 64)
    stretch = Clip.from_file(path, fps=25, start=0.2, duration=0.4, frame=frame)
    assert stretch.frames.shape == (10, 64, 64, 3)
    assert len(stretch.sound) == round(0.4 * SAMPLE_RATE)
    plain = clips[0].frames[5:15, :48, 24:72]
    assert np.abs(stretch.frames[:, ::4, ::4].astype(int) - plain[:, ::3, ::3]).mean() < 8
    with pytest.raises(InputError, match="crop"):
        _ = Clip.from_file(path, frame=Frame((0.8, 0.0, 0.5, 0.5), 64, 64)).frames


def test_what_is_not_there_is_said(clips: list[Clip]) -> None:
    grey = Clip.from_arrays(np.full((6, 64, 64, 3), 128, np.uint8), 25.0, name="grey")
    assert not grey.has_face
    assert np.isnan(grey.track.landmarks).all()
    with pytest.raises(InputError, match="grey"):
        _ = grey.sound
    other = clips[0].with_sound(clips[1].sound)
    assert np.array_equal(other.track.landmarks, clips[0].track.landmarks, equal_nan=True)
    common = min(len(other.sound), len(clips[1].sound))
    assert np.array_equal(other.sound[:common], clips[1].sound[:common])
