"""The portrait and the speech of data/demo, made anew: python -m fantasytalking.portrait_world.corpus.demo [FOLDER]

Someone held out says a held-out sentence: whatever is trained on the portrait world has met neither.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fantasytalking import media
from fantasytalking.common.errors import exit_cleanly
from fantasytalking.common.files import written_whole
from fantasytalking.media import write_image
from fantasytalking.portrait_world.corpus.clip_corpus import HELD_OUT_SENTENCES, read_sentences
from fantasytalking.portrait_world.corpus.rendered_clip import Sitter
from fantasytalking.portrait_world.people.identity import HELD_OUT_IDENTITIES, make_identity
from fantasytalking.portrait_world.speech.synthesis import Speech, speak

FOLDER = HELD_OUT_SENTENCES.parent.parent / "demo"
PORTRAIT, SPEECH = "portrait.png", "speech.wav"
IDENTITY, SENTENCE, SIZE, CLOSENESS = 1019, 11, 256, 1.1846
SAMPLE_RATE = 16_000
"""Hz, of the speech: what wav2vec2 hears."""


@dataclass(frozen=True)
class Demo:
    """A portrait (256, 256, 3) uint8 RGB with the mouth closed, and mono speech at `SAMPLE_RATE` Hz."""

    portrait: NDArray[np.uint8]
    speech: Speech


def make_demo() -> Demo:
    """The same on every call."""
    identity = make_identity(IDENTITY)
    sentence = read_sentences(HELD_OUT_SENTENCES, HELD_OUT_IDENTITIES)[SENTENCE]
    return Demo(Sitter(identity, SIZE, CLOSENESS).portrait(), _resampled(speak(sentence, identity.voice)))


def write_demo(folder: Path) -> None:
    """Writes portrait.png and speech.wav.

    Raises:
        InputError: `folder` cannot be written.
    """
    demo = make_demo()
    write_image(folder / PORTRAIT, demo.portrait)
    with written_whole(folder / SPEECH) as temporary:
        media.write_wave(temporary, demo.speech.samples, demo.speech.sample_rate)


def _resampled(speech: Speech) -> Speech:
    from scipy.signal import resample_poly

    samples = resample_poly(speech.samples.astype(np.float64), SAMPLE_RATE, speech.sample_rate)
    return Speech(np.clip(np.round(samples), -32768, 32767).astype(np.int16), SAMPLE_RATE, speech.phonemes)


if __name__ == "__main__":
    exit_cleanly(lambda: write_demo(Path(sys.argv[1]) if sys.argv[1:] else FOLDER))
