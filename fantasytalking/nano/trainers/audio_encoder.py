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

from fantasytalking.encoders.wav2vec import WAV2VEC_SAMPLE_RATE, AudioEncoder, token_count
from fantasytalking.nano.config import AudioEncoderTraining
from fantasytalking.nano.corpora.speech_dataset import PHONEME_CLASSES, SpeechDataset
from fantasytalking.nano.half_precision import to_half_precision

SILENCE_CLASS = PHONEME_CLASSES.index("_")


def build_audio_encoder(config: AudioEncoderTraining, dim: int, seed: int) -> Wav2Vec2Model:
    """A fresh model with the strides of wav2vec2-base: 50 tokens a second of `dim` channels."""
    torch.manual_seed(seed)
    return Wav2Vec2Model(
        Wav2Vec2Config(
            hidden_size=dim,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            intermediate_size=config.feed_forward_dim,
            conv_dim=(config.conv_channels,) * 7,
            num_conv_pos_embeddings=32,
            num_conv_pos_embedding_groups=8,
            # Steps must repeat exactly, and the set is spoken anew in every step by what `augment_waveform` does to it.
            mask_time_prob=0.0,
            layerdrop=0.0,
        )
    )


class AudioEncoderTask:
    """Naming phonemes."""

    name = "audio encoder"

    def __init__(
        self, config: AudioEncoderTraining, dim: int, dataset: SpeechDataset, seed: int, device: torch.device
    ) -> None:
        self.encoder = build_audio_encoder(config, dim, seed)
        self.head = nn.Linear(dim, len(PHONEME_CLASSES))
        self.model = nn.ModuleDict({"encoder": self.encoder, "head": self.head})
        self._config, self._dataset, self._device = config, dataset, device

    def loss(self, random: np.random.Generator, step: int) -> Tensor:
        """Mean cross-entropy of the tokens."""
        drawn = [self._sample_window(random) for _ in range(self._config.fit.batch_size)]
        samples = torch.from_numpy(np.stack([samples for samples, _ in drawn])).to(self._device)
        labels = torch.from_numpy(np.stack([labels for _, labels in drawn])).to(self._device, torch.long)
        logits = self.head(self.encoder(samples).last_hidden_state)  # (B, T, classes)
        return F.cross_entropy(
            logits.flatten(0, 1).float(), labels.flatten(), label_smoothing=self._config.label_smoothing
        )

    def _sample_window(self, random: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """A disturbed stretch of a random utterance, of mean 0 and deviation 1, and its tokens' classes."""
        samples, labels = self._dataset[int(random.integers(len(self._dataset)))]
        count = token_count(round(self._config.window_seconds * WAV2VEC_SAMPLE_RATE))
        first = int(random.integers(max(1, len(labels) - count + 1)))
        stretch = labels[first : first + count]
        wanted = (count - 1) * 320 + 400
        sound = samples[first * 320 : first * 320 + wanted]
        sound = np.pad(sound, (0, wanted - len(sound)))
        stretch = np.pad(stretch, (0, count - len(stretch)), constant_values=SILENCE_CLASS)
        return normalize_waveform(augment_waveform(sound, random)), stretch


def normalize_waveform(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of mean 0 and deviation 1, as Wav2Vec2FeatureExtractor makes it."""
    centred = waveform - waveform.mean()
    return (centred / np.sqrt(centred.var() + 1e-7)).astype(np.float32)


def augment_waveform(waveform: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
    """As another microphone in another room would hear it: a random smooth equaliser, an echo, and noise.

    Synthetic voices are clean and alike; without this, real speech would be nothing like what was learnt from.
    """
    length = len(waveform)
    spectrum = np.fft.rfft(waveform, 2 * length)
    bands = np.interp(np.linspace(0, 1, len(spectrum)), np.linspace(0, 1, 9), random.normal(0, 4, 9))  # decibels
    heard = np.fft.irfft(spectrum * 10 ** (bands / 20), 2 * length)[:length]
    if random.random() < 0.5:
        decay = random.uniform(0.02, 0.15) * WAV2VEC_SAMPLE_RATE
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
def token_accuracy(encoder: AudioEncoder, head: nn.Linear, dataset: SpeechDataset) -> dict[str, float]:
    """Part of the tokens whose phoneme is named right, with and without silence, and named silent when silent."""
    right = total = right_sounding = sounding = silent_found = 0
    for index in range(len(dataset)):
        samples, labels = dataset[index]
        named = head(encoder.encode(samples)).argmax(dim=-1).numpy()
        correct, is_sound = named == labels, labels != SILENCE_CLASS
        right, total = right + int(correct.sum()), total + len(labels)
        right_sounding, sounding = right_sounding + int(correct[is_sound].sum()), sounding + int(is_sound.sum())
        silent_found += int(correct[~is_sound].sum())
    return {
        "accuracy": right / total,
        "accuracy_sounding": right_sounding / max(1, sounding),
        "accuracy_silence": silent_found / max(1, total - sounding),
        "utterances": len(dataset),
    }


def save_audio_encoder(model: Wav2Vec2Model, folder: Path) -> None:
    """Writes the part `audio_encoder` of a components folder, in half precision, with its feature extractor."""
    to_half_precision(model)
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
