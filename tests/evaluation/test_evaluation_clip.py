"""Reading, slicing and cropping of clips."""

import numpy as np

from fantasytalking.common.errors import ErrorCode
from fantasytalking.evaluation.evaluation_clip import CLIP_SAMPLE_RATE, CropAndResize, EvaluationClip
from tests.evaluation.conftest import SIZE
from tests.helpers.errors import raises_input_error


def test_a_clip_has_frames_audio_and_a_face(clips: list[EvaluationClip]) -> None:
    clip = clips[0]
    assert clip.frames.shape[1:] == (SIZE, SIZE, 3)
    assert clip.fps == 25
    assert abs(len(clip.audio) / CLIP_SAMPLE_RATE - len(clip.frames) / 25) < 0.05
    assert clip.track.present.mean() > 0.95
    assert clip.track is clip.track
    assert clip.face_crops(32).shape == (len(clip.frames), 32, 32, 3)


def test_slices_share_the_track(clips: list[EvaluationClip]) -> None:
    whole = clips[0]
    second, odd = whole.slice_frames(slice(10, None)), whole.slice_frames(slice(1, None, 2))
    assert np.array_equal(second.frames, whole.frames[10:])
    assert second.times[0] == 0
    assert np.array_equal(second.track.landmarks, whole.track.landmarks[10:])
    assert np.array_equal(second.audio, whole.audio[round(10 / 25 * CLIP_SAMPLE_RATE) :])
    assert odd.fps == 12.5
    assert np.array_equal(odd.track.landmarks, whole.track.landmarks[1::2])
    assert len(odd.track.times) == len(odd.frames) == len(whole.frames) // 2


def test_a_segment_of_a_file_is_cropped_and_resized(clips: list[EvaluationClip]) -> None:
    path = clips[0].path
    assert path is not None
    transform = CropAndResize((0.25, 0.0, 0.5, 0.5), 64, 64)
    segment = EvaluationClip.from_file(path, fps=25, start=0.2, duration=0.4, transform=transform)
    assert segment.frames.shape == (10, 64, 64, 3)
    assert len(segment.audio) == round(0.4 * CLIP_SAMPLE_RATE)
    plain = clips[0].frames[5:15, :48, 24:72]
    assert np.abs(segment.frames[:, ::4, ::4].astype(int) - plain[:, ::3, ::3]).mean() < 8
    outside = (0.8, 0.0, 0.5, 0.5)
    with raises_input_error(ErrorCode.out_of_range, "crop", outside):
        _ = EvaluationClip.from_file(path, transform=CropAndResize(outside, 64, 64)).frames
    with raises_input_error(ErrorCode.out_of_range, "frames", len(clips[0].frames)):
        _ = EvaluationClip.from_file(path, frame_count=1000).frames


def test_missing_faces_and_audio(clips: list[EvaluationClip]) -> None:
    gray = EvaluationClip.from_arrays(np.full((6, 64, 64, 3), 128, np.uint8), 25.0, name="gray")
    assert not gray.has_face
    assert np.isnan(gray.track.landmarks).all()
    with raises_input_error(ErrorCode.unreadable_media, "audio", "gray"):
        _ = gray.audio
    other = clips[0].with_audio(clips[1].audio)
    assert np.array_equal(other.track.landmarks, clips[0].track.landmarks, equal_nan=True)
    common = min(len(other.audio), len(clips[1].audio))
    assert np.array_equal(other.audio[:common], clips[1].audio[:common])
