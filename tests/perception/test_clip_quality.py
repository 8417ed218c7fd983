"""What hides a face, what fills a sound, how mouth and sound agree, and what identifies a copy."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from fantasytalking.perception.camera_motion import camera_motion
from fantasytalking.perception.content_hash import hash_chunks, hash_distance, image_hash, sound_hash
from fantasytalking.perception.face_track import FaceTrack, track_faces
from fantasytalking.perception.face_visibility import face_detail_db, lip_edges, overlay_fraction
from fantasytalking.perception.mouth_agreement import measure_agreement
from fantasytalking.perception.speech_sound import sound_steadiness, speech_depth_db
from fantasytalking.portrait_world.speech.synthesis import Voice, synthesize_speech
from tests.data.planted_faults import (
    FPS,
    TalkingClip,
    covered_mouth,
    enlarged,
    moving_camera,
    music,
    music_over_speech,
    noise,
    subtitles,
    tone,
)
from tests.data.sample_videos import talking_clip

TEXT = "We took the early train to the sea and walked along the beach until the rain came."
OTHER_TEXT = "Nobody else had ever heard of the small house near the river."


@pytest.fixture(scope="module")
def clip() -> TalkingClip:
    """40 frames of a person, and 3.2 s of speech."""
    frames, _, _ = talking_clip(0)
    speech = synthesize_speech(TEXT, Voice("en-us", 160, 50, 50))
    samples = speech.samples[: round(3.2 * speech.sample_rate)].astype(np.float32) / 32768
    return TalkingClip(frames, samples, speech.sample_rate)


@pytest.fixture(scope="module")
def track(clip: TalkingClip) -> FaceTrack:
    return track_faces(clip.frames, np.arange(len(clip.frames)) / FPS)[0]


def test_speech_changes_and_pauses_where_other_sounds_do_not(clip: TalkingClip) -> None:
    assert sound_steadiness(clip.samples, clip.rate) < 0.7 and speech_depth_db(clip.samples, clip.rate) > 20
    for other in (tone, noise, music):
        assert sound_steadiness(other(clip).samples, clip.rate) > 0.77, other.__name__
    mixed = music_over_speech(clip).samples
    assert speech_depth_db(mixed, clip.rate) < 17 and sound_steadiness(mixed, clip.rate) < 0.75
    for measure in (sound_steadiness, speech_depth_db):
        assert np.isnan(measure(clip.samples[: round(1.9 * clip.rate)], clip.rate))
        assert np.isnan(measure(np.zeros_like(clip.samples), clip.rate))
        assert measure(clip.samples / 10, clip.rate) == pytest.approx(measure(clip.samples, clip.rate), abs=0.01)


def test_what_hides_a_face_is_measured(clip: TalkingClip, track: FaceTrack) -> None:
    assert lip_edges(clip.frames, track) > 1.5 > 1.2 > lip_edges(covered_mouth(clip).frames, track)
    assert overlay_fraction(clip.frames, track) < 0.05 < 0.12 < overlay_fraction(subtitles(clip).frames, track)
    assert face_detail_db(clip.frames, track) > -11 > -15 > face_detail_db(enlarged(clip).frames, track)
    far = replace(track, landmarks=track.landmarks * np.float32([0.4, 0.4, 0.4]))
    for measure in (lip_edges, overlay_fraction, face_detail_db):
        assert np.isnan(measure(clip.frames, far)), "a small face is not measured"


def test_the_camera_is_measured_by_its_background(clip: TalkingClip, track: FaceTrack) -> None:
    assert camera_motion(moving_camera(clip).frames, [track]) > 0.25
    still = replace(clip, frames=np.repeat(moving_camera(clip).frames[:1], len(clip.frames), axis=0))
    assert camera_motion(still.frames, [track]) < 0.02
    plain = np.full_like(clip.frames, 128)
    assert np.isnan(camera_motion(plain, [track]))


def speaking(track: FaceTrack, clip: TalkingClip, seconds: float = 3.2) -> FaceTrack:
    """A face whose mouth opens with the level of the sound."""
    count = round(seconds * FPS)
    length = clip.rate // FPS
    level = np.array([np.sqrt(np.mean(clip.samples[n * length : (n + 1) * length] ** 2)) for n in range(count)])
    landmarks = np.repeat(track.landmarks[:1], count, axis=0)
    eyes = float(track.interocular[0])
    landmarks[:, 14, 1] = landmarks[:, 13, 1] + eyes * 0.4 * level / level.max()
    seen = np.ones(count, bool)
    return FaceTrack(np.arange(count) / FPS, landmarks, seen, ~seen, seen.astype(np.float32), track.height, track.width)


@pytest.mark.parametrize("lag", [0.0, 0.6, -0.4])
def test_the_lag_of_the_sound_is_found(clip: TalkingClip, track: FaceTrack, lag: float) -> None:
    mouth = speaking(track, clip)
    silence = np.zeros(round(abs(lag) * clip.rate), np.float32)
    late = np.concatenate([silence, clip.samples]) if lag >= 0 else clip.samples[len(silence) :]
    found = measure_agreement(mouth, late, clip.rate)
    assert found.lag == pytest.approx(lag, abs=0.05)
    assert (found.agreement > 0.5) == (lag == 0)


def test_other_speech_does_not_agree_and_a_still_mouth_has_no_agreement(clip: TalkingClip, track: FaceTrack) -> None:
    mouth = speaking(track, clip)
    other = synthesize_speech(OTHER_TEXT, Voice("en-us", 150, 40, 50))
    found = measure_agreement(mouth, other.samples.astype(np.float32) / 32768, other.sample_rate)
    assert found.agreement < measure_agreement(mouth, clip.samples, clip.rate).agreement - 0.2
    still = replace(mouth, landmarks=np.repeat(mouth.landmarks[:1], len(mouth.times), axis=0))
    assert np.isnan(measure_agreement(still, clip.samples, clip.rate).agreement)
    assert np.isnan(measure_agreement(speaking(track, clip, 1.6), clip.samples, clip.rate).agreement)


def test_copies_have_similar_hashes_and_others_not(clip: TalkingClip) -> None:
    smaller = [cv2.resize(frame, (96, 96), interpolation=cv2.INTER_AREA) for frame in clip.frames[[0, 20, 39]]]
    quieter = 0.3 * clip.samples + 0.002 * np.random.default_rng(0).normal(size=len(clip.samples)).astype(np.float32)
    image, sound = image_hash(clip.frames[[0, 20, 39]]), sound_hash(clip.samples, clip.rate)
    assert hash_distance(image, image_hash(np.stack(smaller))) < 0.1
    assert hash_distance(sound, sound_hash(quieter, clip.rate)) < 0.1
    assert set(hash_chunks(sound)) & set(hash_chunks(sound_hash(quieter, clip.rate)))
    assert hash_distance(image, image_hash(talking_clip(1)[0][[0, 20, 39]])) > 0.15
    other = synthesize_speech(OTHER_TEXT, Voice("en-us", 150, 40, 50))
    others = sound_hash(other.samples[: len(clip.samples)].astype(np.float32) / 32768, clip.rate)
    assert hash_distance(sound, others) > 0.25
    assert hash_distance(sound, sound + "00") == hash_distance("", "") == 1.0
