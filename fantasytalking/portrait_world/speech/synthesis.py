"""Offline speech synthesis with eSpeak NG, with the time of every phoneme."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fantasytalking.common.errors import ErrorCode, InputError

LEAD_SECONDS = 0.24
TAIL_SECONDS = 0.32
SPEECH_PEAK = 0.7
MIXED_PEAK = 0.95
MAX_SENTENCE_CHARACTERS = 400
MAX_SPEECH_SECONDS = 60


@dataclass(frozen=True)
class Voice:
    """Voice of a speaker: an eSpeak NG voice name, rate in words per minute, pitch and pitch range (0 to 100 each)."""

    name: str
    rate: int
    pitch: int
    range: int


@dataclass(frozen=True)
class Phoneme:
    """A phoneme from `start` to `end` in seconds; `symbol` is eSpeak NG's mnemonic, "_" for silence."""

    start: float
    end: float
    symbol: str


@dataclass(frozen=True)
class Speech:
    """Mono 16-bit samples (N,) at `sample_rate` Hz, and the phonemes that cover them without a gap."""

    samples: NDArray[np.int16]
    sample_rate: int
    phonemes: tuple[Phoneme, ...]

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return len(self.samples) / self.sample_rate


def synthesize_speech(text: str, voice: Voice) -> Speech:
    """Synthesizes `text` at a common peak level, with a short silence before and after; deterministic.

    Raises:
        InputError: the text is empty, too long, or has nothing that can be spoken.
        RuntimeError: eSpeak NG fails.
    """
    text = text.strip()
    if not 0 < len(text) <= MAX_SENTENCE_CHARACTERS:
        raise InputError(
            f"a sentence has {len(text)} characters; it must have 1 to {MAX_SENTENCE_CHARACTERS}",
            code=ErrorCode.out_of_range,
            field="text",
            value=text,
        )
    request = {"text": text, "voice": voice.name, "rate": voice.rate, "pitch": voice.pitch, "range": voice.range}
    finished = subprocess.run(
        [sys.executable, "-m", "fantasytalking.portrait_world.speech.espeak"],
        input=json.dumps(request).encode(),
        capture_output=True,
        timeout=120,
        check=False,
    )
    if finished.returncode != 0:
        lines = finished.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise RuntimeError(f"speech synthesis failed: {lines[-1]}")
    header, _, raw = finished.stdout.partition(b"\n")
    answer = json.loads(header)
    sample_rate = int(answer["sample_rate"])
    spoken = np.frombuffer(raw, dtype="<i2").astype(np.float64)
    if not spoken.size or not np.abs(spoken).max() > 0:
        raise InputError(
            f"nothing in '{text}' can be spoken; use words", code=ErrorCode.invalid_type, field="text", value=text
        )
    if spoken.size > MAX_SPEECH_SECONDS * sample_rate:
        raise InputError(
            f"'{text[:40]}...' takes {spoken.size / sample_rate:.0f} s to speak; the limit is {MAX_SPEECH_SECONDS} s: "
            "use a shorter sentence",
            code=ErrorCode.out_of_range,
            field="text",
            value=text,
        )
    return _add_silence(spoken, sample_rate, [(float(time), str(symbol)) for time, symbol in answer["phonemes"]])


def silent_speech(seconds: float, sample_rate: int) -> Speech:
    """Returns silence of this duration."""
    return Speech(np.zeros(round(seconds * sample_rate), np.int16), sample_rate, (Phoneme(0.0, seconds, "_"),))


def pad_with_silence(speech: Speech, start: float, seconds: float) -> Speech:
    """Returns a speech of `seconds` that is silent except for the given one, which starts at `start` seconds."""
    rate = speech.sample_rate
    samples = np.zeros(round(seconds * rate), np.int16)
    first = min(round(start * rate), len(samples) - len(speech.samples))
    assert first >= 0, "the speech must fit into the duration"
    samples[first : first + len(speech.samples)] = speech.samples
    moved = [Phoneme(phoneme.start + start, phoneme.end + start, phoneme.symbol) for phoneme in speech.phonemes]
    padded = [Phoneme(0.0, start, "_"), *moved, Phoneme(start + speech.seconds, seconds, "_")]
    return Speech(samples, rate, tuple(phoneme for phoneme in padded if phoneme.end > phoneme.start))


def mix_speeches(speeches: Sequence[Speech]) -> NDArray[np.float32]:
    """Mixes speeches of equal length and sample rate to (N,) in [-1, 1], attenuated if the sum would clip."""
    mixture = np.sum([speech.samples for speech in speeches], axis=0, dtype=np.float32) / 32768
    return mixture / np.float32(max(1.0, float(np.abs(mixture).max()) / MIXED_PEAK))


def _add_silence(spoken: NDArray[np.float64], sample_rate: int, events: list[tuple[float, str]]) -> Speech:
    lead, tail = np.zeros(round(LEAD_SECONDS * sample_rate)), np.zeros(round(TAIL_SECONDS * sample_rate))
    scaled = np.concatenate([lead, spoken * (SPEECH_PEAK * 32767 / np.abs(spoken).max()), tail])
    total = len(scaled) / sample_rate
    starts = [0.0, *(min(time + LEAD_SECONDS, total) for time, _ in events), total]
    symbols = ["_", *(symbol for _, symbol in events)]
    phonemes = tuple(
        Phoneme(start, end, "_" if symbol.startswith("_") or not symbol else symbol)
        for start, end, symbol in zip(starts[:-1], starts[1:], symbols, strict=True)
        if end > start
    )
    return Speech(np.round(scaled).astype(np.int16), sample_rate, phonemes)
