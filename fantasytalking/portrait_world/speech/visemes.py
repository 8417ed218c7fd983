"""Mouth shapes over time from phonemes, with coarticulation.

Every phoneme has a target for each mouth parameter and a dominance. At any time a parameter is the mean of the targets
of nearby phonemes, weighted by dominance and proximity in time (after Cohen and Massaro, "Modeling coarticulation in
synthetic visual speech", 1993). Lips always close for bilabials (p, b, m).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fantasytalking.portrait_world.speech.synthesis import Phoneme


class Viseme(NamedTuple):
    """Targets of the mouth parameters: `open` in [0, 1], `width` in [-1, 1] from rounded to spread, the others in
    [0, 1]."""

    open: float
    width: float = 0.0
    press: float = 0.0
    tuck: float = 0.0
    tongue: float = 0.0
    dominance: float = 1.0


REST_VISEME = Viseme(0.0, dominance=1.2)
BILABIAL = Viseme(0.0, 0.0, press=1.0, dominance=2.2)
LABIODENTAL = Viseme(0.07, 0.10, tuck=1.0, dominance=1.5)
DENTAL = Viseme(0.15, 0.10, tongue=0.75, dominance=0.9)
ALVEOLAR = Viseme(0.13, 0.15, tongue=0.80, dominance=0.7)
SIBILANT = Viseme(0.09, 0.40, tongue=0.35, dominance=1.1)
POSTALVEOLAR = Viseme(0.15, -0.60, tongue=0.30, dominance=1.2)
VELAR = Viseme(0.22, 0.05, dominance=0.6)
ASPIRATE = Viseme(0.30, 0.0, dominance=0.35)

A = Viseme(0.74, 0.10)
BROAD_A = Viseme(0.80, -0.05)
E = Viseme(0.52, 0.38)
I = Viseme(0.33, 0.45)  # noqa: E741
LONG_I = Viseme(0.26, 0.75)
O = Viseme(0.52, -0.55)  # noqa: E741
U = Viseme(0.24, -0.80)
LONG_U = Viseme(0.19, -1.0)
SHORT_U = Viseme(0.55, 0.0)
SCHWA = Viseme(0.34, 0.0, dominance=0.7)

# eSpeak NG's mnemonics for English without stress marks; two visemes are the start and end of a diphthong.
PHONEME_VISEMES: dict[str, tuple[Viseme, ...]] = {
    "_": (REST_VISEME,),
    "p": (BILABIAL,),
    "b": (BILABIAL,),
    "m": (BILABIAL,),
    "f": (LABIODENTAL,),
    "v": (LABIODENTAL,),
    "T": (DENTAL,),
    "D": (DENTAL,),
    "t": (ALVEOLAR,),
    "d": (ALVEOLAR,),
    "n": (ALVEOLAR,),
    "l": (Viseme(0.24, 0.10, tongue=0.95, dominance=0.8),),
    "s": (SIBILANT,),
    "z": (SIBILANT,),
    "S": (POSTALVEOLAR,),
    "Z": (POSTALVEOLAR,),
    "tS": (POSTALVEOLAR,),
    "dZ": (POSTALVEOLAR,),
    "k": (VELAR,),
    "g": (VELAR,),
    "N": (VELAR,),
    "x": (VELAR,),
    "h": (ASPIRATE,),
    "H": (ASPIRATE,),
    "?": (ASPIRATE,),
    "r": (Viseme(0.20, -0.50, dominance=0.9),),
    "R": (Viseme(0.20, -0.30, dominance=0.7),),
    "w": (Viseme(0.11, -1.0, dominance=1.4),),
    "j": (Viseme(0.18, 0.55, dominance=0.8),),
    "@": (SCHWA,),
    "@L": (SCHWA, Viseme(0.22, 0.0, tongue=0.9, dominance=0.7)),
    "3": (Viseme(0.32, -0.25),),
    "3:": (Viseme(0.34, -0.35),),
    "a": (A,),
    "aa": (BROAD_A,),
    "A": (BROAD_A,),
    "0": (Viseme(0.62, -0.35),),
    "O": (O,),
    "o": (O,),
    "V": (SHORT_U,),
    "E": (E,),
    "e": (E,),
    "I": (I,),
    "i": (LONG_I,),
    "U": (U,),
    "u": (LONG_U,),
    "eI": (E, LONG_I),
    "aI": (A, I),
    "OI": (O, I),
    "oU": (O, LONG_U),
    "aU": (A, U),
    "e@": (E, SCHWA),
    "i@": (LONG_I, SCHWA),
    "U@": (U, SCHWA),
    "o@": (O, SCHWA),
    "A@": (BROAD_A, SCHWA),
    "O@": (O, SCHWA),
    "aI@": (A, I, SCHWA),
    "aU@": (A, U, SCHWA),
}
STRESS_MARKS = "'%,=|;^`~-"
WIDTH_SECONDS, OPEN_SECONDS, CLOSURE_SECONDS = 0.060, 0.034, 0.022


def visemes_of(symbol: str) -> tuple[Viseme, ...]:
    """Returns the visemes of the longest known prefix of a mnemonic, a neutral vowel if there is none."""
    bare = symbol.lstrip(STRESS_MARKS)
    for length in range(len(bare), 0, -1):
        if bare[:length] in PHONEME_VISEMES:
            return PHONEME_VISEMES[bare[:length]]
    return (SCHWA,)


def mouth_track(phonemes: tuple[Phoneme, ...], times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns mouth parameters (T, 5) at `times` (T,) in seconds: open, width, press, tuck, tongue."""
    centers, lengths, targets = [], [], []
    for phoneme in phonemes:
        visemes = visemes_of(phoneme.symbol)
        for index, viseme in enumerate(visemes):
            duration = (phoneme.end - phoneme.start) / len(visemes)
            pieces = max(1, round(duration / 0.04))  # long phonemes keep their shape
            for piece in range(pieces):
                centers.append(phoneme.start + duration * (index + (piece + 0.5) / pieces))
                lengths.append(duration / pieces)
                targets.append(viseme)
    center, length, target = np.array(centers), np.array(lengths), np.array(targets)
    distance = times[:, None] - center[None]

    def mean(column: int, seconds: float) -> NDArray[np.float64]:
        spread = np.hypot(seconds, 0.35 * length)[None]
        weight = target[:, 5] * length * np.exp(-0.5 * (distance / spread) ** 2) / spread + 1e-12
        return (weight * target[:, column]).sum(1) / weight.sum(1)

    track = np.stack([mean(0, OPEN_SECONDS), *(mean(column, WIDTH_SECONDS) for column in (1, 2, 3, 4))], 1)
    shut = np.ones(len(times))
    for phoneme in phonemes:
        if visemes_of(phoneme.symbol) == (BILABIAL,):
            beyond = np.maximum(np.maximum(phoneme.start - times, times - phoneme.end) + 0.010, 0)
            shut = np.minimum(shut, 1 - np.exp(-0.5 * (beyond / CLOSURE_SECONDS) ** 2))
    track[:, 0] *= shut
    return track


def speech_loudness(samples: NDArray[np.int16], sample_rate: int, times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the smoothed loudness (T,) in [0, 1] at `times` (T,) in seconds."""
    hop = sample_rate // 100
    usable = samples[: len(samples) // hop * hop].astype(np.float64).reshape(-1, hop)
    level = np.sqrt((usable**2).mean(1))
    kernel = np.exp(-0.5 * (np.arange(-9, 10) / 3.0) ** 2)
    level = np.convolve(level, kernel / kernel.sum(), mode="same")
    level = np.sqrt(level / max(float(level.max()), 1e-9))
    return np.interp(times, (np.arange(len(level)) + 0.5) * hop / sample_rate, level)
