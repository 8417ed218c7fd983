"""Renders the portrait and speech of data/demo: python -m fantasytalking.portrait_world.corpus.demo [FOLDER]

A held-out identity says a held-out sentence, so that models trained on the portrait world have seen neither.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fantasytalking import media
from fantasytalking.common.errors import exit_cleanly
from fantasytalking.common.files import atomic_write
from fantasytalking.media import write_image
from fantasytalking.portrait_world.corpus.clip_corpus import HELD_OUT_SENTENCES_FILE, read_sentences
from fantasytalking.portrait_world.corpus.rendered_clip import PortraitRenderer
from fantasytalking.portrait_world.people.identity import HELD_OUT_IDENTITIES, make_identity
from fantasytalking.portrait_world.speech.synthesis import Speech, synthesize_speech

DEMO_FOLDER = HELD_OUT_SENTENCES_FILE.parent.parent / "demo"
DEMO_PORTRAIT_FILE, DEMO_SPEECH_FILE = "portrait.png", "speech.wav"
DEMO_IDENTITY, DEMO_SENTENCE, DEMO_SIZE, DEMO_ZOOM = 1019, 11, 256, 1.1846
DEMO_SAMPLE_RATE = 16_000
"""Sample rate of the speech in Hz, that of wav2vec2."""


@dataclass(frozen=True)
class DemoInputs:
    """Inputs of the demo: a portrait (256, 256, 3) uint8 RGB with the mouth closed, and mono speech at
    `DEMO_SAMPLE_RATE` Hz."""

    portrait: NDArray[np.uint8]
    speech: Speech


def make_demo() -> DemoInputs:
    """Renders the demo's inputs; deterministic."""
    identity = make_identity(DEMO_IDENTITY)
    sentence = read_sentences(HELD_OUT_SENTENCES_FILE, HELD_OUT_IDENTITIES)[DEMO_SENTENCE]
    return DemoInputs(
        PortraitRenderer(identity, DEMO_SIZE, DEMO_ZOOM).portrait(),
        _resample_speech(synthesize_speech(sentence, identity.voice)),
    )


def write_demo(folder: Path) -> None:
    """Writes portrait.png and speech.wav to `folder`.

    Raises:
        InputError: `folder` cannot be written.
    """
    demo = make_demo()
    write_image(folder / DEMO_PORTRAIT_FILE, demo.portrait)
    with atomic_write(folder / DEMO_SPEECH_FILE) as temporary:
        media.write_wav(temporary, demo.speech.samples, demo.speech.sample_rate)


def _resample_speech(speech: Speech) -> Speech:
    from scipy.signal import resample_poly

    samples = resample_poly(speech.samples.astype(np.float64), DEMO_SAMPLE_RATE, speech.sample_rate)
    return Speech(np.clip(np.round(samples), -32768, 32767).astype(np.int16), DEMO_SAMPLE_RATE, speech.phonemes)


if __name__ == "__main__":
    exit_cleanly(lambda: write_demo(Path(sys.argv[1]) if sys.argv[1:] else DEMO_FOLDER))
