"""Sentences to speech with the time of every phoneme, by eSpeak NG, offline."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fantasytalking.common.errors import InputError

LEAD_SECONDS = 0.24
TAIL_SECONDS = 0.32
SPEECH_PEAK = 0.7
MIXED_PEAK = 0.95
MAX_SENTENCE_CHARACTERS = 400
MAX_SPEECH_SECONDS = 60


@dataclass(frozen=True)
class Voice:
    """How someone speaks: an eSpeak NG voice name, words per minute, pitch and its range (0 to 100 each)."""

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
        return len(self.samples) / self.sample_rate


def synthesize_speech(text: str, voice: Voice) -> Speech:
    """Speaks `text`, with a short silence before and after, at a common loudness. Same arguments, same samples.

    Raises:
        InputError: the text is empty, too long or holds nothing that can be spoken.
        RuntimeError: eSpeak NG fails.
    """
    text = text.strip()
    if not 0 < len(text) <= MAX_SENTENCE_CHARACTERS:
        raise InputError(f"a sentence has {len(text)} characters; give 1 to {MAX_SENTENCE_CHARACTERS} a line")
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
        raise InputError(f"nothing in '{text}' can be spoken; give words")
    if spoken.size > MAX_SPEECH_SECONDS * sample_rate:
        raise InputError(f"'{text[:40]}...' takes over {MAX_SPEECH_SECONDS} s to speak; give a shorter sentence")
    return _add_silence(spoken, sample_rate, [(float(time), str(symbol)) for time, symbol in answer["phonemes"]])


def silent_speech(seconds: float, sample_rate: int) -> Speech:
    """Nothing said for this long."""
    return Speech(np.zeros(round(seconds * sample_rate), np.int16), sample_rate, (Phoneme(0.0, seconds, "_"),))


def pad_with_silence(speech: Speech, start: float, seconds: float) -> Speech:
    """The same speech from `start` on in a stretch of `seconds` that is silent before and after."""
    rate = speech.sample_rate
    samples = np.zeros(round(seconds * rate), np.int16)
    first = min(round(start * rate), len(samples) - len(speech.samples))
    assert first >= 0, "the speech must fit into the stretch"
    samples[first : first + len(speech.samples)] = speech.samples
    moved = [Phoneme(phoneme.start + start, phoneme.end + start, phoneme.symbol) for phoneme in speech.phonemes]
    around = [Phoneme(0.0, start, "_"), *moved, Phoneme(start + speech.seconds, seconds, "_")]
    return Speech(samples, rate, tuple(phoneme for phoneme in around if phoneme.end > phoneme.start))


def mix_speeches(speeches: Sequence[Speech]) -> NDArray[np.float32]:
    """Speeches of one length and rate at once: (N,) in [-1, 1], quieter as a whole where their sum would clip."""
    together = np.sum([speech.samples for speech in speeches], axis=0, dtype=np.float32) / 32768
    return together / np.float32(max(1.0, float(np.abs(together).max()) / MIXED_PEAK))


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
