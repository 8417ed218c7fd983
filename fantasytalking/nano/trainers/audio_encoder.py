"""The miniature's audio encoder: a narrow Wav2Vec2Model that learns which phoneme sounds at each of its tokens.

Cross-entropy per token takes the place of wav2vec 2.0's pretraining and CTC (arXiv 2006.11477), since the world's
speech comes with the time of every phoneme. Axes: B utterances, S samples, T tokens.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

from fantasytalking.encoders.wav2vec import SAMPLE_RATE, AudioEncoder, token_count
from fantasytalking.nano.config import AudioConfig
from fantasytalking.nano.corpora.speech_dataset import PHONEMES, SpeechSet
from fantasytalking.nano.half_precision import halve

SILENCE = PHONEMES.index("_")


def build_audio_encoder(config: AudioConfig, dim: int, seed: int) -> Wav2Vec2Model:
    """A fresh model with the strides of wav2vec2-base: 50 tokens a second of `dim` channels."""
    torch.manual_seed(seed)
    return Wav2Vec2Model(
        Wav2Vec2Config(
            hidden_size=dim,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=config.feed_forward,
            conv_dim=(config.channels,) * 7,
            num_conv_pos_embeddings=32,
            num_conv_pos_embedding_groups=8,
            # Steps must repeat exactly, and the set is spoken anew in every step by what `disturbed` does to it.
            mask_time_prob=0.0,
            layerdrop=0.0,
        )
    )


class AudioTask:
    """Naming phonemes."""

    name = "audio encoder"

    def __init__(self, config: AudioConfig, dim: int, speech: SpeechSet, seed: int, device: torch.device) -> None:
        self.encoder = build_audio_encoder(config, dim, seed)
        self.head = nn.Linear(dim, len(PHONEMES))
        self.model = nn.ModuleDict({"encoder": self.encoder, "head": self.head})
        self._config, self._speech, self._device = config, speech, device

    def loss(self, random: np.random.Generator, step: int) -> Tensor:
        """Mean cross-entropy of the tokens."""
        drawn = [self._window(random) for _ in range(self._config.fit.batch)]
        samples = torch.from_numpy(np.stack([samples for samples, _ in drawn])).to(self._device)
        labels = torch.from_numpy(np.stack([labels for _, labels in drawn])).to(self._device, torch.long)
        logits = self.head(self.encoder(samples).last_hidden_state)  # (B, T, classes)
        return F.cross_entropy(
            logits.flatten(0, 1).float(), labels.flatten(), label_smoothing=self._config.label_smoothing
        )

    def _window(self, random: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """A disturbed stretch of a random utterance, of mean 0 and deviation 1, and its tokens' classes."""
        samples, labels = self._speech[int(random.integers(len(self._speech)))]
        count = token_count(round(self._config.seconds * SAMPLE_RATE))
        first = int(random.integers(max(1, len(labels) - count + 1)))
        stretch = labels[first : first + count]
        wanted = (count - 1) * 320 + 400
        sound = samples[first * 320 : first * 320 + wanted]
        sound = np.pad(sound, (0, wanted - len(sound)))
        stretch = np.pad(stretch, (0, count - len(stretch)), constant_values=SILENCE)
        return normalised(disturbed(sound, random)), stretch


def normalised(sound: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of mean 0 and deviation 1, as Wav2Vec2FeatureExtractor makes it."""
    centred = sound - sound.mean()
    return (centred / np.sqrt(centred.var() + 1e-7)).astype(np.float32)


def disturbed(sound: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
    """As another microphone in another room would hear it: a random smooth equaliser, an echo, and noise.

    Synthetic voices are clean and alike; without this, real speech would be nothing like what was learnt from.
    """
    length = len(sound)
    spectrum = np.fft.rfft(sound, 2 * length)
    bands = np.interp(np.linspace(0, 1, len(spectrum)), np.linspace(0, 1, 9), random.normal(0, 4, 9))  # decibels
    heard = np.fft.irfft(spectrum * 10 ** (bands / 20), 2 * length)[:length]
    if random.random() < 0.5:
        decay = random.uniform(0.02, 0.15) * SAMPLE_RATE
        echo = random.standard_normal(round(3 * decay)) * np.exp(-np.arange(round(3 * decay)) / decay)
        echo *= random.uniform(0.05, 0.4) / np.sqrt((echo**2).sum())
        echo[0] = 1
        padded = 2 ** int(np.ceil(np.log2(length + len(echo))))
        heard = np.fft.irfft(np.fft.rfft(heard, padded) * np.fft.rfft(echo, padded), padded)[:length]
    noise = random.standard_normal(length)
    if random.random() < 0.5:
        noise = np.cumsum(noise) - np.linspace(0, 1, length) * noise.sum()  # brown, as rumble is
    loudness = np.sqrt((heard**2).mean()) * 10 ** (-random.uniform(8, 45) / 20)
    return (heard + noise * loudness / max(float(noise.std()), 1e-9)).astype(np.float32)


@torch.no_grad()
def token_accuracy(encoder: AudioEncoder, head: nn.Linear, speech: SpeechSet) -> dict[str, float]:
    """Part of the tokens whose phoneme is named right, with and without silence, and named silent when silent."""
    right = total = right_sounding = sounding = silent_found = 0
    for index in range(len(speech)):
        samples, labels = speech[index]
        named = head(encoder.encode(samples)).argmax(dim=-1).numpy()
        correct, is_sound = named == labels, labels != SILENCE
        right, total = right + int(correct.sum()), total + len(labels)
        right_sounding, sounding = right_sounding + int(correct[is_sound].sum()), sounding + int(is_sound.sum())
        silent_found += int(correct[~is_sound].sum())
    return {
        "accuracy": right / total,
        "accuracy_sounding": right_sounding / max(1, sounding),
        "accuracy_silence": silent_found / max(1, total - sounding),
        "utterances": len(speech),
    }


def save_audio_encoder(model: Wav2Vec2Model, folder: Path) -> None:
    """Writes the part `audio_encoder` of a components folder, in half precision, with its feature extractor."""
    halve(model)
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
