"""Tests of speech synthesis: deterministic, with phonemes that cover the audio."""

from pathlib import Path

import numpy as np
import pytest

from fantasytalking import media
from fantasytalking.common.errors import ErrorCode
from fantasytalking.media import read_audio
from fantasytalking.portrait_world.people.identity import make_identity
from fantasytalking.portrait_world.speech.synthesis import Voice, synthesize_speech
from tests.helpers.errors import raises_input_error

# A voice with breath in it, which the library takes from a random generator.
VOICE = make_identity(1).voice
TEXT = "Bob moved the map."


def test_synthesis_is_independent_of_earlier_sentences() -> None:
    first = synthesize_speech(TEXT, VOICE)
    synthesize_speech("Something else entirely.", Voice("en-gb-x-rp+m3", 140, 40, 60))
    again = synthesize_speech(TEXT, VOICE)
    assert np.array_equal(first.samples, again.samples)
    assert first.phonemes == again.phonemes


def test_phonemes_cover_the_audio_without_gaps() -> None:
    speech = synthesize_speech(TEXT, VOICE)
    assert speech.sample_rate == 22050
    assert speech.phonemes[0].start == 0
    assert speech.phonemes[-1].end == pytest.approx(speech.seconds)
    for earlier, later in zip(speech.phonemes[:-1], speech.phonemes[1:], strict=True):
        assert earlier.end == later.start
    assert [phoneme.symbol for phoneme in speech.phonemes].count("m") == 2


def test_the_audio_is_silent_during_silence_phonemes() -> None:
    speech = synthesize_speech(TEXT, VOICE)
    first = speech.phonemes[0]
    assert first.symbol == "_"
    samples = np.abs(speech.samples.astype(float))
    assert samples[: int(0.9 * first.end * speech.sample_rate)].max() < 0.02 * samples.max()
    assert samples.max() == pytest.approx(0.7 * 32767, abs=1)


def test_rate_and_voice_change_the_speech() -> None:
    slow, fast = (
        synthesize_speech(TEXT, Voice("en-us+f3", 110, 50, 50)),
        synthesize_speech(TEXT, Voice("en-us+f3", 220, 50, 50)),
    )
    assert slow.seconds > 1.3 * fast.seconds
    other = synthesize_speech(TEXT, Voice("en-us+m3", 110, 50, 50))
    assert not np.array_equal(other.samples[:20000], slow.samples[:20000])


def test_the_voices_of_many_people_exist() -> None:
    names = {make_identity(number).voice.name for number in range(60)}
    assert len(names) >= 20
    for name in sorted(names):
        assert synthesize_speech("Yes.", Voice(name, 160, 50, 50)).seconds > 0.6


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", ErrorCode.out_of_range),
        ("   ", ErrorCode.out_of_range),
        ("...", ErrorCode.invalid_type),
        ("word " * 200, ErrorCode.out_of_range),
    ],
)
def test_text_that_cannot_be_spoken_is_rejected(text: str, code: ErrorCode) -> None:
    with raises_input_error(code, "text", text.strip()):
        synthesize_speech(text, VOICE)


def test_the_wave_file_equals_the_speech(tmp_path: Path) -> None:
    speech = synthesize_speech(TEXT, VOICE)
    media.write_wav(tmp_path / "speech.wav", speech.samples, speech.sample_rate)
    heard = read_audio(tmp_path / "speech.wav", sample_rate=speech.sample_rate)
    assert np.abs(heard - speech.samples / 32768).max() < 1e-4
