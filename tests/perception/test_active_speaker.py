"""The active speaker among several people, or None with a reason."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fantasytalking.media import read_video
from fantasytalking.perception.active_speaker import detect_active_speaker
from fantasytalking.perception.face_track import FaceTrack, track_faces
from tests.perception.conftest import DrawnScene


@pytest.fixture(scope="module")
def tracks(talker: DrawnScene, listener: DrawnScene) -> list[FaceTrack]:
    """The listener on the left, the speaker on the right."""
    found = track_faces(np.concatenate([listener.frames, talker.frames], axis=2), talker.times)
    return sorted(found, key=lambda one: float(np.nanmean(one.boxes[:, 0])))


def voice(talker: DrawnScene, seconds: float = 2.0) -> np.ndarray:
    """Noise whose loudness is the mouth opening."""
    time = np.arange(int(16000 * seconds)) / 16000
    loud = np.interp(time, talker.times, talker.mouth)
    return (np.random.default_rng(0).normal(0, 0.3, len(time)) * loud).astype(np.float32)


def test_the_moving_mouth_is_chosen(tracks: list[FaceTrack], talker: DrawnScene) -> None:
    for audio in (None, voice(talker)):
        choice = detect_active_speaker(tracks, audio)
        assert choice.track_index == 1 and choice.reason
        assert choice.mouth_speeds[1] > 2 * choice.mouth_speeds[0]
    assert choice.sync_correlations[1] > 0.8


def test_a_single_person_is_always_chosen(tracks: list[FaceTrack]) -> None:
    assert detect_active_speaker(tracks[:1]).track_index == 0


def test_two_mouths_that_move_alike_are_ambiguous_unless_the_audio_decides(
    tracks: list[FaceTrack], talker: DrawnScene
) -> None:
    other = replace(tracks[1], landmarks=tracks[1].landmarks[(np.arange(40) * 0.7).astype(int)])  # more slowly
    refused = detect_active_speaker([other, tracks[1]])
    assert refused.track_index is None and "2 people" in refused.reason
    assert detect_active_speaker([other, tracks[1]], voice(talker)).track_index == 1
    assert detect_active_speaker([other, tracks[1]], np.zeros(32000, np.float32)).track_index is None


def test_of_two_listeners_nobody_is_chosen(tracks: list[FaceTrack]) -> None:
    choice = detect_active_speaker([tracks[0], tracks[0]])
    assert choice.track_index is None and "no mouth moves" in choice.reason


def test_passers_by_are_ignored(tracks: list[FaceTrack]) -> None:
    absent = np.zeros(len(tracks[1].times), bool)
    absent[:5] = True
    landmarks = np.where(absent[:, None, None], tracks[1].landmarks, np.nan)
    passer_by = replace(tracks[1], landmarks=landmarks, present=absent)
    far_away = replace(tracks[1], landmarks=tracks[1].landmarks * 0.2)
    assert detect_active_speaker([tracks[0], passer_by, far_away]).track_index == 0


def test_no_face_is_a_reason() -> None:
    choice = detect_active_speaker([])
    assert choice.track_index is None and "no face" in choice.reason


@pytest.mark.slow
def test_two_real_people_without_audio_are_ambiguous(real_media: Path) -> None:
    video = read_video(real_media / "videos" / "two_people_no_sound_23fps.mp4")
    assert detect_active_speaker(track_faces(video.frames, video.times)).track_index is None
