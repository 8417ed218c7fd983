"""Tests of data/demo: a held-out person at rest and a held-out sentence, both reproducible."""

import wave

import numpy as np
import pytest

from fantasytalking.media import read_audio, read_image
from fantasytalking.portrait_world.corpus.demo import (
    DEMO_FOLDER,
    DEMO_IDENTITY,
    DEMO_PORTRAIT_FILE,
    DEMO_SPEECH_FILE,
    DemoInputs,
    make_demo,
)
from fantasytalking.portrait_world.people.identity import make_identity


@pytest.fixture(scope="module")
def made() -> DemoInputs:
    return make_demo()


def test_the_person_is_held_out():
    assert make_identity(DEMO_IDENTITY).held_out


def test_the_portrait_is_reproducible(made: DemoInputs):
    kept = read_image(DEMO_FOLDER / DEMO_PORTRAIT_FILE).astype(int)
    assert kept.shape == (256, 256, 3)
    assert np.abs(kept - made.portrait).max() <= 1, "another processor may round a pixel otherwise"


def test_the_speech_is_reproducible(made: DemoInputs):
    with wave.open(str(DEMO_FOLDER / DEMO_SPEECH_FILE)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16000, 1, 2)
        kept = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(int)
    assert len(kept) == len(made.speech.samples)
    assert np.abs(kept - made.speech.samples).max() <= 1


def test_the_files_are_small():
    assert all((DEMO_FOLDER / name).stat().st_size < 150_000 for name in (DEMO_PORTRAIT_FILE, DEMO_SPEECH_FILE))


def test_about_three_seconds_of_speech_are_surrounded_by_silence():
    sound = read_audio(DEMO_FOLDER / DEMO_SPEECH_FILE)
    assert 2.5 < len(sound) / 16000 < 3.5
    assert max(np.abs(sound[:3200]).max(), np.abs(sound[-4800:]).max()) < 0.01
    assert np.abs(sound).max() > 0.5


def test_the_mouth_is_closed_and_the_face_is_detected():
    pytest.importorskip("mediapipe")
    from fantasytalking.perception.face_track import detect_faces
    from fantasytalking.perception.landmark_measures import eye_opening, mouth_opening

    (face,) = detect_faces(read_image(DEMO_FOLDER / DEMO_PORTRAIT_FILE))
    assert mouth_opening(face.landmarks) < 0.04, "speech reaches 0.3"
    assert eye_opening(face.landmarks).min() > 0.2
