"""Tests of mouth shapes from phonemes."""

import numpy as np
import pytest

from fantasytalking.portrait_world.speech.synthesis import Phoneme, Voice, synthesize_speech
from fantasytalking.portrait_world.speech.visemes import (
    PHONEME_VISEMES,
    SCHWA,
    mouth_track,
    speech_loudness,
    visemes_of,
)

TIMES = np.arange(0, 1, 0.01)


def said(*sounds: tuple[str, float]) -> tuple[Phoneme, ...]:
    phonemes, start = [], 0.0
    for symbol, seconds in sounds:
        phonemes.append(Phoneme(start, start + seconds, symbol))
        start += seconds
    return tuple(phonemes)


@pytest.mark.parametrize("symbol", ["p", "b", "m"])
def test_lips_close_between_vowels(symbol: str) -> None:
    track = mouth_track(said(("_", 0.2), ("aa", 0.2), (symbol, 0.08), ("aa", 0.2), ("_", 0.32)), TIMES)
    opening = track[:, 0]
    assert opening[(TIMES > 0.41) & (TIMES < 0.47)].max() < 0.1
    assert opening[(TIMES > 0.25) & (TIMES < 0.35)].max() > 0.5
    assert track[(TIMES > 0.42) & (TIMES < 0.46), 2].min() > 0.3


def test_the_mouth_is_closed_in_silence_and_wide_in_open_vowels() -> None:
    opening = mouth_track(said(("_", 0.4), ("aa", 0.2), ("_", 0.4)), TIMES)[:, 0]
    assert opening[TIMES < 0.25].max() < 0.02
    assert opening[TIMES > 0.75].max() < 0.02
    assert opening[(TIMES > 0.45) & (TIMES < 0.55)].min() > 0.6


def test_lips_round_before_a_rounded_vowel_starts() -> None:
    width = mouth_track(said(("_", 0.2), ("t", 0.1), ("u:", 0.3), ("_", 0.4)), TIMES)[:, 1]
    plain = mouth_track(said(("_", 0.2), ("t", 0.1), ("i:", 0.3), ("_", 0.4)), TIMES)[:, 1]
    assert width[TIMES < 0.3][-1] < -0.1
    assert plain[TIMES < 0.3][-1] > 0.2


def test_tracks_are_smooth() -> None:
    track = mouth_track(said(("_", 0.2), ("m", 0.06), ("aI", 0.2), ("n", 0.06), ("u:", 0.16), ("_", 0.32)), TIMES)
    assert np.abs(np.diff(track, axis=0)).max() < 0.25


def test_stress_and_length_marks_are_ignored() -> None:
    assert visemes_of("'aI") == visemes_of("aI") == PHONEME_VISEMES["aI"]
    assert visemes_of(",i:") == PHONEME_VISEMES["i"]
    assert visemes_of("t#") == PHONEME_VISEMES["t"]
    assert visemes_of("§") == (SCHWA,)


def test_every_phoneme_of_english_sentences_is_known() -> None:
    text = "The quick zebra chewed fresh yellow hay, joyfully measuring both warm paths out there; ours, sure, I hear."
    for voice in ("en-us+f2", "en-gb-x-rp+m3", "en-gb-scotland+f1", "en+m1"):
        speech = synthesize_speech(text, Voice(voice, 160, 50, 50))
        bare = [phoneme.symbol.lstrip("'%,=|;") for phoneme in speech.phonemes]
        assert [symbol for symbol in bare if not any(symbol.startswith(known) for known in PHONEME_VISEMES)] == []


def test_loudness_follows_the_audio() -> None:
    samples = np.zeros(22050, np.int16)
    samples[8000:14000] = (12000 * np.sin(np.arange(6000) * 0.1)).astype(np.int16)
    level = speech_loudness(samples, 22050, np.array([0.1, 0.5, 0.9]))
    assert level[1] > 0.9
    assert max(level[0], level[2]) < 0.05
