"""Synthesized utterances with the phoneme of every audio token, for training the audio encoder."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from fantasytalking.audio_tokens import AUDIO_SAMPLE_RATE
from fantasytalking.common.files import atomic_write
from fantasytalking.common.worker_processes import worker_pool
from fantasytalking.encoders.wav2vec import token_count, token_times
from fantasytalking.nano.corpora.unique_utterances import vary_sentence
from fantasytalking.nano.corpora.video_corpus import held_out_sentences, training_sentences
from fantasytalking.portrait_world.people.identity import HELD_OUT_IDENTITIES, TRAINING_IDENTITIES, make_identity
from fantasytalking.portrait_world.speech.synthesis import Phoneme, Voice, synthesize_speech
from fantasytalking.portrait_world.speech.visemes import PHONEME_VISEMES, STRESS_MARKS

PHONEME_CLASSES: tuple[str, ...] = (*PHONEME_VISEMES, "unknown")
"""Classes of the audio encoder's head: eSpeak NG's mnemonics without stress marks ("_" is silence), and "unknown"."""


@dataclass(frozen=True)
class Utterance:
    """Text and voice of an utterance."""

    text: str
    voice: Voice


@dataclass(frozen=True)
class SpeechDataset:
    """Concatenated utterances at 16 kHz."""

    samples: NDArray[np.int16]
    labels: NDArray[np.uint8]
    """Class of every token of every utterance."""
    sample_starts: NDArray[np.int64]
    """Index of the first sample of every utterance, and the number of samples."""
    label_starts: NDArray[np.int64]
    """Index of the first token of every utterance, and the number of tokens."""

    def __len__(self) -> int:
        """Number of utterances."""
        return len(self.sample_starts) - 1

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Returns samples in [-1, 1] and the class of every token."""
        samples = self.samples[self.sample_starts[index] : self.sample_starts[index + 1]]
        labels = self.labels[self.label_starts[index] : self.label_starts[index + 1]]
        return samples.astype(np.float32) / 32768, labels


def phoneme_class(symbol: str) -> int:
    """Returns the class of the longest known prefix of a mnemonic, the class "unknown" if there is none."""
    bare = symbol.lstrip(STRESS_MARKS)
    for length in range(len(bare), 0, -1):
        if bare[:length] in PHONEME_VISEMES:
            return PHONEME_CLASSES.index(bare[:length])
    return len(PHONEME_CLASSES) - 1


def phoneme_labels(phonemes: tuple[Phoneme, ...], times: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Returns the class of the phoneme at each of `times` (T,) in seconds."""
    ends = np.array([phoneme.end for phoneme in phonemes])
    classes = np.array([phoneme_class(phoneme.symbol) for phoneme in phonemes], dtype=np.uint8)
    return classes[np.minimum(np.searchsorted(ends, times, side="right"), len(ends) - 1)]


def plan_training_utterances(count: int, seed: int) -> list[Utterance]:
    """Plans training sentences, half of them with shuffled words, in the voices of training identities."""
    random = np.random.default_rng([seed, 41])
    sentences = training_sentences()
    planned = []
    for number in range(count):
        text = vary_sentence(sentences, number, random)
        planned.append(Utterance(text, _voice(int(random.integers(len(TRAINING_IDENTITIES))), random)))
    return planned


def plan_held_out_utterances(count: int, seed: int) -> list[Utterance]:
    """Plans held-out sentences in the voices of held-out identities."""
    random = np.random.default_rng([seed, 42])
    sentences = held_out_sentences()
    return [
        Utterance(sentences[number % len(sentences)], _voice(HELD_OUT_IDENTITIES[number % 1000], random))
        for number in range(count)
    ]


def load_or_synthesize(planned: list[Utterance], path: Path, processes: int) -> SpeechDataset:
    """Loads the utterances from `path`; if it does not exist, they are synthesized and saved."""
    if not path.is_file():
        spoken = list(_synthesize_all(planned, processes))
        tensors = {
            "samples": torch.from_numpy(np.concatenate([samples for samples, _ in spoken])),
            "labels": torch.from_numpy(np.concatenate([labels for _, labels in spoken])),
            "sample_starts": torch.from_numpy(_offsets([len(samples) for samples, _ in spoken])),
            "label_starts": torch.from_numpy(_offsets([len(labels) for _, labels in spoken])),
        }
        with atomic_write(path) as temporary:
            save_file(tensors, temporary)
    return SpeechDataset(**{name: tensor.numpy() for name, tensor in load_file(path).items()})


def synthesize_utterance(utterance: Utterance) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Returns samples at 16 kHz and the class of every token."""
    from scipy.signal import resample_poly

    speech = synthesize_speech(utterance.text, utterance.voice)
    resampled = resample_poly(speech.samples.astype(np.float64), AUDIO_SAMPLE_RATE, speech.sample_rate)
    samples = np.clip(np.round(resampled), -32768, 32767).astype(np.int16)
    return samples, phoneme_labels(speech.phonemes, token_times(token_count(len(samples))))


def _voice(identity: int, random: np.random.Generator) -> Voice:
    voice = make_identity(identity).voice
    rate, pitch = int(random.integers(-25, 26)), int(np.clip(voice.pitch + random.integers(-12, 13), 5, 95))
    return Voice(voice.name, voice.rate + rate, pitch, voice.range)


def _synthesize_all(planned: list[Utterance], processes: int) -> Iterator[tuple[NDArray[np.int16], NDArray[np.uint8]]]:
    """Yields utterances in order. Each is synthesized in a process of its own, so that the result does not depend on
    the number of workers."""
    if processes == 1:
        yield from map(synthesize_utterance, planned)
        return
    with worker_pool(processes, __name__) as pool:
        yield from pool.map(synthesize_utterance, planned, chunksize=16)


def _offsets(lengths: list[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
