"""Animation of speech: mouth, brows, lids, gaze, head and shoulders per frame.

Facial motion depends on the expression intensity only, head and shoulder motion on the body intensity only, both in
proportion. Random motion is scaled to a fixed strength over each clip, so that its amount depends on the intensity and
not on chance or the sentence.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fantasytalking.portrait_world.graphics.mesh import smoothstep
from fantasytalking.portrait_world.motion.frame_state import FaceState
from fantasytalking.portrait_world.speech.synthesis import Speech
from fantasytalking.portrait_world.speech.visemes import mouth_track, speech_loudness

MotionTrack = NDArray[np.float64]

WORLD_FPS = 25
# Root mean square of head and shoulder motion at body intensity 1, in radians and image heights.
HEAD_SWING_RMS = {"yaw": 0.165, "pitch": 0.075, "roll": 0.070, "x": 0.018, "y": 0.009}
SHOULDER_SWING_RMS = {"shoulder_x": 0.012, "shoulder_y": 0.010, "shoulder_roll": 0.022}
SWING_SECONDS = {"yaw": 0.42, "pitch": 0.34, "roll": 0.45, "x": 0.5, "y": 0.4}
MIN_BODY_MOTION = 0.04  # fraction of it at body intensity 0
MAX_HEAD_POSE = {"yaw": 0.42, "pitch": 0.22, "roll": 0.20, "x": 0.05, "y": 0.03}
# Wave of the speech that each of them follows where scenes are coupled to speech.
SPEECH_MOTION = {"yaw": "turn", "pitch": "stress", "roll": "phrase", "x": "turn", "y": "stress"}
SPEECH_MOTION |= {"shoulder_x": "turn", "shoulder_y": "phrase", "shoulder_roll": "phrase"}
LIGHT_SWING = 0.35  # largest relative change of the backdrop's brightness
IDLE_MOUTH_OPEN = 0.3
# Standard deviations over a clip of the mouth's opening and width, at expression intensity 0 and 1.
MOUTH_OPEN_DEVIATION, MOUTH_WIDTH_DEVIATION = (0.140, 0.285), (0.09, 0.50)


@dataclass(frozen=True)
class Animation:
    """States (T,) at 25 frames per second, and the phoneme of each frame (T,)."""

    states: tuple[FaceState, ...]
    phonemes: tuple[str, ...]
    light: tuple[float, ...] = ()
    """Change of the backdrop's brightness per frame, relative to its usual one. Empty: none."""


def frame_count(seconds: float) -> int:
    """Returns the number of frames of a clip with audio of this duration, at least one."""
    return max(1, round(seconds * WORLD_FPS))


def animate_speech(
    speech: Speech, expression: float, body: float, random: np.random.Generator, coupling: float = 0.0
) -> Animation:
    """Animates speech.

    Args:
        speech: audio and phonemes.
        expression: intensity of facial motion in [0, 1].
        body: intensity of head and shoulder motion in [0, 1].
        random: random generator of all motion that the speech does not determine.
        coupling: how far head, shoulders and the light of the scene follow stress and phrases of the speech, in [0, 1].
            At 0, which is the default, they move at random, but for the nods.
    """
    count = frame_count(speech.seconds)
    times = (np.arange(count) + 0.5) / WORLD_FPS
    loud = speech_loudness(speech.samples, speech.sample_rate, times)
    tracks = _mouth_tracks(speech, times, loud, expression)
    tracks |= _head_and_shoulder_tracks(count, loud, body, random, coupling)
    symbols = tuple(_phoneme_at(speech, time) for time in times)
    light = tuple((LIGHT_SWING * coupling * np.tanh(_speech_waves(loud)["phrase"])).tolist()) if coupling else ()
    return Animation(_states(tracks, loud, expression, random), symbols, light)


def animate_idle(count: int, expression: float, body: float, random: np.random.Generator) -> Animation:
    """Animates somebody who does not speak: face, head and shoulders move, and the lips part slowly at times.

    Args:
        count: number of frames.
        expression: intensity of facial motion in [0, 1].
        body: intensity of head and shoulder motion in [0, 1].
        random: random generator.
    """
    silence = np.zeros(count)
    tracks = {
        "mouth_open": IDLE_MOUTH_OPEN * expression * np.maximum(smooth_random_wave(random, count, 0.5) - 0.5, 0),
        "mouth_width": np.clip(0.4 * expression * smooth_random_wave(random, count, 0.5), -1, 1),
    }
    tracks |= _head_and_shoulder_tracks(count, silence, body, random)
    return Animation(_states(tracks, silence, expression, random), ("_",) * count)


def _states(
    tracks: dict[str, MotionTrack], loudness: MotionTrack, expression: float, random: np.random.Generator
) -> tuple[FaceState, ...]:
    """Adds the motion of the upper face and the eyes to the tracks of mouth, head and shoulders."""
    count = len(loudness)
    tracks = tracks | _face_tracks(count, loudness, expression, random)
    tracks["gaze_x"], tracks["gaze_y"] = _gaze_tracks(count, tracks["yaw"], tracks["pitch"], expression, random)
    return tuple(FaceState(**{name: float(track[frame]) for name, track in tracks.items()}) for frame in range(count))


def _mouth_tracks(
    speech: Speech, times: MotionTrack, loudness: MotionTrack, expression: float
) -> dict[str, MotionTrack]:
    opening, width, press, tuck, tongue = mouth_track(speech.phonemes, times).T
    opening = opening * (0.72 + 0.42 * loudness)
    # Consonants between vowels open the lips less than the mean of the targets.
    opening = np.maximum(opening - 0.06 * (1 - np.exp(-opening / 0.06)), 0)  # closed lips may round below zero
    opening = _scale_to_deviation(opening, MOUTH_OPEN_DEVIATION, expression)
    # Large openings are compressed softly below 1.
    opening = np.where(opening > 0.7, 0.7 + 0.3 * np.tanh((opening - 0.7) / 0.3), opening)
    return {
        "mouth_open": opening,
        "mouth_width": np.clip(_scale_to_deviation(width, MOUTH_WIDTH_DEVIATION, expression), -1, 1),
        "lip_press": press * (0.4 + 0.6 * expression),
        "lip_tuck": tuck,
        "tongue": tongue,
    }


def _scale_to_deviation(track: MotionTrack, deviations: tuple[float, float], expression: float) -> MotionTrack:
    """Scales a track to the standard deviation of an intensity, with a gain of at most 1.9."""
    target = deviations[0] + (deviations[1] - deviations[0]) * expression
    return track * np.clip(target / max(float(track.std()), 1e-6), 0.1, 1.9)


def _head_and_shoulder_tracks(
    count: int, loudness: MotionTrack, body: float, random: np.random.Generator, coupling: float = 0.0
) -> dict[str, MotionTrack]:
    strength = MIN_BODY_MOTION + (1 - MIN_BODY_MOTION) * body
    spoken = _speech_waves(loudness) if coupling else {}

    def coupled(name: str, wave: MotionTrack) -> MotionTrack:
        return math.sqrt(1 - coupling**2) * wave + coupling * spoken[SPEECH_MOTION[name]] if coupling else wave

    tracks = {}
    for name, swing in HEAD_SWING_RMS.items():
        wave = smooth_random_wave(random, count, SWING_SECONDS[name])
        if name == "pitch":
            wave = 0.8 * wave + 0.6 * _standardize(np.gradient(_smooth(loudness, 2.5)) * -1)
        limit = MAX_HEAD_POSE[name]
        tracks[name] = limit * np.tanh(swing * strength * coupled(name, wave) / limit)
    for name, swing in SHOULDER_SWING_RMS.items():
        tracks[name] = swing * strength * coupled(name, smooth_random_wave(random, count, 0.55))
    breath = np.sin(2 * np.pi * (np.arange(count) / WORLD_FPS * 0.27 + random.uniform()))
    tracks["shoulder_y"] = tracks["shoulder_y"] + 0.0012 * breath
    return tracks


def _speech_waves(loudness: MotionTrack) -> dict[str, MotionTrack]:
    """Returns waves of mean 0 and root mean square 1 (0 in silence): stress of syllables, phrases, and turns between
    phrases."""
    phrase = _smooth(loudness, 8)
    waves = {"stress": _smooth(loudness, 2.5) - phrase, "phrase": phrase, "turn": np.gradient(_smooth(loudness, 12))}
    return {name: _standardize(wave) for name, wave in waves.items()}


def _face_tracks(
    count: int, loudness: MotionTrack, expression: float, random: np.random.Generator
) -> dict[str, MotionTrack]:
    brow = 0.80 * smooth_random_wave(random, count, 0.26) + 0.60 * _standardize(_smooth(loudness, 4))
    mood = random.uniform(-0.3, 1.0)
    smile = np.clip(0.20 * mood + 0.50 * smooth_random_wave(random, count, 0.36), -0.45, 1)
    frown = np.clip(0.30 * smooth_random_wave(random, count, 0.5) - 0.35 * mood, 0, 1)
    squint = np.clip(0.20 * smooth_random_wave(random, count, 0.6), 0, 0.6)
    return {
        "brow": np.clip(0.65 * expression * brow, -0.9, 1),
        "smile": expression * smile,
        "frown": expression * frown,
        "squint": expression * squint,
        "blink": _blink_track(count, expression, random),
    }


def _blink_track(count: int, expression: float, random: np.random.Generator) -> MotionTrack:
    """Returns lids that close in 80 ms and open in 160 ms, more often at higher expression intensity."""
    shut = np.zeros(count)
    frames = np.arange(count)
    per_second = 0.02 + 0.48 * expression
    at = random.uniform(0.2, 1) * WORLD_FPS / per_second
    while at < count:
        since = (frames - at) / WORLD_FPS
        lid = smoothstep(-0.09, -0.01, since) * smoothstep(0.19, 0.03, since)
        shut = np.maximum(shut, np.where(since < 0, smoothstep(-0.09, -0.01, since), lid))
        at += WORLD_FPS * max(0.7, random.exponential(0.6 / per_second) + 0.4 / per_second)
    return shut


def _gaze_tracks(
    count: int, yaw: MotionTrack, pitch: MotionTrack, expression: float, random: np.random.Generator
) -> tuple[MotionTrack, MotionTrack]:
    """Returns random saccades around the viewer; the eyes compensate most of the head's rotation."""
    aims = np.zeros((count, 2))
    start = 0
    while start < count:
        aims[start:] = random.normal(0, 1, 2) * np.array([0.30, 0.18]) * (0.25 + 0.75 * expression)
        start += int(random.uniform(0.5, 1.9) * WORLD_FPS)
    gaze_x = _smooth(aims[:, 0], 0.8) - 0.6 * yaw / 0.42
    gaze_y = _smooth(aims[:, 1], 0.8) + 0.6 * pitch / 0.26
    return np.clip(gaze_x, -1, 1), np.clip(gaze_y, -1, 1)


def smooth_random_wave(random: np.random.Generator, count: int, seconds: float) -> MotionTrack:
    """Returns a smooth random wave (T,) of mean 0 and root mean square 1; `seconds` is the width of its smoothing
    kernel."""
    frames = seconds * WORLD_FPS
    margin = int(4 * frames)
    return _standardize(_smooth(random.standard_normal(count + 2 * margin), frames)[margin : margin + count])


def _smooth(track: MotionTrack, frames: float) -> MotionTrack:
    reach = max(1, int(3.5 * frames))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / frames) ** 2)
    padded = np.pad(track, reach, mode="edge")
    return np.convolve(padded, kernel / kernel.sum(), mode="valid")


def _standardize(track: MotionTrack) -> MotionTrack:
    centered = track - track.mean()
    return centered / max(float(np.sqrt((centered**2).mean())), 1e-9)


def _phoneme_at(speech: Speech, time: float) -> str:
    for phoneme in speech.phonemes:
        if time < phoneme.end:
            return phoneme.symbol
    return "_"
