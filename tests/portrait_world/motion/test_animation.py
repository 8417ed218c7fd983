"""Tests of speech animation and its intensities."""

import dataclasses

import numpy as np
import pytest

from fantasytalking.portrait_world.motion.animation import WORLD_FPS, animate_idle, animate_speech, frame_count
from fantasytalking.portrait_world.motion.frame_state import FaceState
from fantasytalking.portrait_world.speech.synthesis import Speech, Voice, synthesize_speech

FACE = ("mouth_open", "mouth_width", "brow", "smile", "frown", "squint", "blink")
POSTURE = ("yaw", "pitch", "roll", "x", "y", "shoulder_x", "shoulder_roll")
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)


@pytest.fixture(scope="module")
def speech() -> Speech:
    return synthesize_speech("My brother keeps bees behind the old wooden barn.", Voice("en-us+f2", 160, 50, 50))


def tracks(speech: Speech, expression: float, body: float, seed: int = 3) -> dict[str, np.ndarray]:
    states = animate_speech(speech, expression, body, np.random.default_rng(seed)).states
    return {
        field.name: np.array([getattr(state, field.name) for state in states])
        for field in dataclasses.fields(FaceState)
    }


def strength(played: dict[str, np.ndarray], names: tuple[str, ...]) -> float:
    return float(np.mean([played[name].std() for name in names]))


def test_expression_moves_the_face_and_not_the_head(speech: Speech) -> None:
    played = [tracks(speech, level, 0.5) for level in LEVELS]
    face = [strength(track, FACE) for track in played]
    assert face == sorted(face)
    assert face[-1] > 2 * face[0]
    for name in POSTURE:
        assert all(np.array_equal(track[name], played[0][name]) for track in played)


def test_body_moves_head_and_shoulders_and_not_the_face(speech: Speech) -> None:
    played = [tracks(speech, 0.5, level) for level in LEVELS]
    posture = [strength(track, POSTURE) for track in played]
    assert posture == sorted(posture)
    assert posture[-1] > 10 * posture[0]
    for name in FACE:
        assert all(np.array_equal(track[name], played[0][name]) for track in played)


def test_a_still_body_hardly_moves(speech: Speech) -> None:
    played = tracks(speech, 1.0, 0.0)
    assert max(np.abs(played[name]).max() for name in ("yaw", "pitch", "roll")) < 0.03


def test_a_neutral_face_keeps_brows_and_mouth_corners_still(speech: Speech) -> None:
    played = tracks(speech, 0.0, 1.0)
    assert all(np.abs(played[name]).max() == 0 for name in ("brow", "smile", "frown"))
    assert played["mouth_open"].max() > 0.25


def test_there_are_25_frames_per_second(speech: Speech) -> None:
    performance = animate_speech(speech, 0.5, 0.5, np.random.default_rng(0))
    assert abs(len(performance.states) / WORLD_FPS - speech.seconds) <= 1 / WORLD_FPS
    assert len(performance.states) == len(performance.phonemes) == frame_count(speech.seconds)


def test_the_mouth_is_closed_before_and_after_speech(speech: Speech) -> None:
    opening = tracks(speech, 1.0, 0.5)["mouth_open"]
    assert opening[:3].max() < 0.02
    assert opening[-3:].max() < 0.02
    assert opening.min() >= 0 and opening.max() <= 1


def test_the_mouth_opens_with_the_audio(speech: Speech) -> None:
    frames = speech.samples[: len(speech.samples) // 882 * 882].astype(float).reshape(-1, 882)
    level = np.sqrt(np.sqrt((frames**2).mean(1)))
    for expression in (0.0, 1.0):
        opening = tracks(speech, expression, 0.5)["mouth_open"]
        count = min(len(opening), len(level))
        assert np.corrcoef(opening[:count], level[:count])[0, 1] > 0.5


def test_randomness_depends_on_the_seed_only(speech: Speech) -> None:
    assert animate_speech(speech, 0.5, 0.5, np.random.default_rng(1)) == animate_speech(
        speech, 0.5, 0.5, np.random.default_rng(1)
    )
    first, second = tracks(speech, 0.5, 0.5, seed=1), tracks(speech, 0.5, 0.5, seed=2)
    assert not np.allclose(first["yaw"], second["yaw"])
    assert np.array_equal(first["mouth_open"], second["mouth_open"])


def test_coupled_scenes_follow_the_speech_and_move_as_much(speech: Speech) -> None:
    def motion(coupling: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        played = animate_speech(speech, 0.5, 1.0, np.random.default_rng(seed), coupling)
        roll, yaw = (np.array([getattr(state, name) for state in played.states]) for name in ("roll", "yaw"))
        return roll, yaw, np.array(played.light)

    free, coupled = [motion(0.0, seed) for seed in (1, 2)], [motion(0.9, seed) for seed in (1, 2)]
    for index in (0, 1):
        assert np.corrcoef(coupled[0][index], coupled[1][index])[0, 1] > 0.6  # whatever the random motion
        assert abs(np.corrcoef(free[0][index], free[1][index])[0, 1]) < 0.6
        assert 0.6 < coupled[0][index].std() / free[0][index].std() < 1.6
    assert not free[0][2].size
    assert np.array_equal(coupled[0][2], coupled[1][2]) and 0.1 < np.abs(coupled[0][2]).max() <= 0.35
    assert np.corrcoef(coupled[0][2], coupled[0][0])[0, 1] > 0.6


def test_people_who_do_not_speak_move_slowly() -> None:
    played = animate_idle(200, 1.0, 1.0, np.random.default_rng(0))
    assert len(played.states) == 200 and set(played.phonemes) == {"_"}
    opening = np.array([state.mouth_open for state in played.states])
    assert opening.min() == 0 and 0.1 < opening.max() <= 1 and np.mean(opening == 0) > 0.4
    assert np.abs(np.diff(opening)).max() < 0.05  # speech reaches three times that
    assert np.std([state.yaw for state in played.states]) > 0.1
    assert max(state.blink for state in played.states) > 0.9
