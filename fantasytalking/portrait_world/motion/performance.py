"""The performance of a sentence: mouth, brows, lids, gaze, head and shoulders in every frame.

The face moves with the expression intensity alone, head and shoulders with the body intensity alone; both grow in
proportion. Random movements are scaled to a set strength over each clip, so that the intensity and not chance or the
sentence decides how much there is of them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fantasytalking.portrait_world.graphics.mesh import smooth_step
from fantasytalking.portrait_world.motion.frame_state import FaceState
from fantasytalking.portrait_world.speech.synthesis import Speech
from fantasytalking.portrait_world.speech.visemes import loudness, mouth_track

Track = NDArray[np.float64]

FRAMES_PER_SECOND = 25
# Root mean square of head and shoulder movement at body intensity 1: radians and picture heights.
HEAD_SWING = {"yaw": 0.165, "pitch": 0.075, "roll": 0.070, "x": 0.018, "y": 0.009}
SHOULDER_SWING = {"shoulder_x": 0.012, "shoulder_y": 0.010, "shoulder_roll": 0.022}
SECONDS_OF_SWING = {"yaw": 0.42, "pitch": 0.34, "roll": 0.45, "x": 0.5, "y": 0.4}
STILL = 0.04  # what is left of them at body intensity 0
LARGEST = {"yaw": 0.42, "pitch": 0.22, "roll": 0.20, "x": 0.05, "y": 0.03}
# Standard deviations over a clip of the mouth's opening and width, at expression intensity 0 and 1.
OPEN_SPREAD, WIDTH_SPREAD = (0.140, 0.285), (0.09, 0.50)


@dataclass(frozen=True)
class Performance:
    """States (T,) at 25 frames per second and the phoneme that sounds in each."""

    states: tuple[FaceState, ...]
    phonemes: tuple[str, ...]


def frame_count(seconds: float) -> int:
    """Frames of a clip with this much sound: the nearest whole number, at least one."""
    return max(1, round(seconds * FRAMES_PER_SECOND))


def perform(speech: Speech, expression: float, body: float, random: np.random.Generator) -> Performance:
    """Acts a sentence.

    Args:
        speech: what is said.
        expression: strength of the face's movement in [0, 1].
        body: strength of head and shoulder movement in [0, 1].
        random: source of everything that is not determined by the speech.
    """
    count = frame_count(speech.seconds)
    times = (np.arange(count) + 0.5) / FRAMES_PER_SECOND
    loud = loudness(speech.samples, speech.sample_rate, times)
    tracks = _mouth(speech, times, loud, expression)
    tracks |= _head_and_shoulders(count, loud, body, random)
    tracks |= _face(count, loud, expression, random)
    tracks["gaze_x"], tracks["gaze_y"] = _gaze(count, tracks["yaw"], tracks["pitch"], expression, random)
    states = tuple(FaceState(**{name: float(track[frame]) for name, track in tracks.items()}) for frame in range(count))
    symbols = tuple(_sounding(speech, time) for time in times)
    return Performance(states, symbols)


def _mouth(speech: Speech, times: Track, loud: Track, expression: float) -> dict[str, Track]:
    opening, width, press, tuck, tongue = mouth_track(speech.phonemes, times).T
    opening = opening * (0.72 + 0.42 * loud)
    # Consonants between vowels part the lips less than a mean of targets says.
    opening = opening - 0.06 * (1 - np.exp(-opening / 0.06))
    opening = _spread_to(opening, OPEN_SPREAD, expression)
    # The largest openings are pressed together softly below 1.
    opening = np.where(opening > 0.7, 0.7 + 0.3 * np.tanh((opening - 0.7) / 0.3), opening)
    return {
        "mouth_open": opening,
        "mouth_width": np.clip(_spread_to(width, WIDTH_SPREAD, expression), -1, 1),
        "lip_press": press * (0.4 + 0.6 * expression),
        "lip_tuck": tuck,
        "tongue": tongue,
    }


def _spread_to(track: Track, spread: tuple[float, float], expression: float) -> Track:
    """Scales a track to the standard deviation that belongs to an intensity, as far as that takes a gain up to 1.9."""
    wanted = spread[0] + (spread[1] - spread[0]) * expression
    return track * np.clip(wanted / max(float(track.std()), 1e-6), 0.1, 1.9)


def _head_and_shoulders(count: int, loud: Track, body: float, random: np.random.Generator) -> dict[str, Track]:
    strength = STILL + (1 - STILL) * body
    tracks = {}
    for name, swing in HEAD_SWING.items():
        wave = swinging(random, count, SECONDS_OF_SWING[name])
        if name == "pitch":
            wave = 0.8 * wave + 0.6 * _standardised(np.gradient(_smoothed(loud, 2.5)) * -1)
        limit = LARGEST[name]
        tracks[name] = limit * np.tanh(swing * strength * wave / limit)
    for name, swing in SHOULDER_SWING.items():
        tracks[name] = swing * strength * swinging(random, count, 0.55)
    breath = np.sin(2 * np.pi * (np.arange(count) / FRAMES_PER_SECOND * 0.27 + random.uniform()))
    tracks["shoulder_y"] = tracks["shoulder_y"] + 0.0012 * breath
    return tracks


def _face(count: int, loud: Track, expression: float, random: np.random.Generator) -> dict[str, Track]:
    brow = 0.80 * swinging(random, count, 0.26) + 0.60 * _standardised(_smoothed(loud, 4))
    mood = random.uniform(-0.3, 1.0)
    smile = np.clip(0.20 * mood + 0.50 * swinging(random, count, 0.36), -0.45, 1)
    frown = np.clip(0.30 * swinging(random, count, 0.5) - 0.35 * mood, 0, 1)
    squint = np.clip(0.20 * swinging(random, count, 0.6), 0, 0.6)
    return {
        "brow": np.clip(0.65 * expression * brow, -0.9, 1),
        "smile": expression * smile,
        "frown": expression * frown,
        "squint": expression * squint,
        "blink": _blinks(count, expression, random),
    }


def _blinks(count: int, expression: float, random: np.random.Generator) -> Track:
    """Lids that fall in 80 ms and rise in 160 ms, more often in a lively face."""
    shut = np.zeros(count)
    frames = np.arange(count)
    per_second = 0.02 + 0.48 * expression
    at = random.uniform(0.2, 1) * FRAMES_PER_SECOND / per_second
    while at < count:
        since = (frames - at) / FRAMES_PER_SECOND
        lid = smooth_step(-0.09, -0.01, since) * smooth_step(0.19, 0.03, since)
        shut = np.maximum(shut, np.where(since < 0, smooth_step(-0.09, -0.01, since), lid))
        at += FRAMES_PER_SECOND * max(0.7, random.exponential(0.6 / per_second) + 0.4 / per_second)
    return shut


def _gaze(count: int, yaw: Track, pitch: Track, expression: float, random: np.random.Generator) -> tuple[Track, Track]:
    """Quick jumps round the viewer, while the eyes make up for most of the head's turning."""
    aims = np.zeros((count, 2))
    start = 0
    while start < count:
        aims[start:] = random.normal(0, 1, 2) * np.array([0.30, 0.18]) * (0.25 + 0.75 * expression)
        start += int(random.uniform(0.5, 1.9) * FRAMES_PER_SECOND)
    gaze_x = _smoothed(aims[:, 0], 0.8) - 0.6 * yaw / 0.42
    gaze_y = _smoothed(aims[:, 1], 0.8) + 0.6 * pitch / 0.26
    return np.clip(gaze_x, -1, 1), np.clip(gaze_y, -1, 1)


def swinging(random: np.random.Generator, count: int, seconds: float) -> Track:
    """A smooth random wave (T,) of mean 0 and root mean square 1 that takes about `seconds` from crest to slope."""
    frames = seconds * FRAMES_PER_SECOND
    margin = int(4 * frames)
    return _standardised(_smoothed(random.standard_normal(count + 2 * margin), frames)[margin : margin + count])


def _smoothed(track: Track, frames: float) -> Track:
    reach = max(1, int(3.5 * frames))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / frames) ** 2)
    padded = np.pad(track, reach, mode="edge")
    return np.convolve(padded, kernel / kernel.sum(), mode="valid")


def _standardised(track: Track) -> Track:
    centred = track - track.mean()
    return centred / max(float(np.sqrt((centred**2).mean())), 1e-9)


def _sounding(speech: Speech, time: float) -> str:
    for phoneme in speech.phonemes:
        if time < phoneme.end:
            return phoneme.symbol
    return "_"
