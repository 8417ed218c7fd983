"""Training of nano's audio encoder: a narrow Wav2Vec2Model that classifies the phoneme of each of its tokens.

Cross-entropy per token replaces wav2vec 2.0's pretraining and CTC (arXiv 2006.11477), since the time of every phoneme
of the synthesized speech is known. Axes: B utterances, S samples, T tokens.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

from fantasytalking.audio_tokens import AUDIO_SAMPLE_RATE
from fantasytalking.encoders.audio_features import AudioEncoder
from fantasytalking.encoders.wav2vec import token_count
from fantasytalking.nano.corpora.speech_dataset import PHONEME_CLASSES, SpeechDataset
from fantasytalking.nano.half_precision import to_half_precision
from fantasytalking.nano.trainers.config import AudioEncoderTraining

SILENCE_CLASS = PHONEME_CLASSES.index("_")


def build_audio_encoder(config: AudioEncoderTraining, dim: int, seed: int) -> Wav2Vec2Model:
    """Returns an untrained model with the strides of wav2vec2-base: 50 tokens per second, `dim` channels."""
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
            # Steps must be reproducible; `augment_waveform` provides the augmentation.
            mask_time_prob=0.0,
            layerdrop=0.0,
        )
    )


class AudioEncoderTask:
    """Classification of the phoneme of each token."""

    name = "audio encoder"

    def __init__(
        self, config: AudioEncoderTraining, dim: int, dataset: SpeechDataset, seed: int, device: torch.device
    ) -> None:
        self.encoder = build_audio_encoder(config, dim, seed)
        self.head = nn.Linear(dim, len(PHONEME_CLASSES))
        self.model = nn.ModuleDict({"encoder": self.encoder, "head": self.head})
        self._config, self._dataset, self._device = config, dataset, device

    def loss(self, random: np.random.Generator, step: int) -> Tensor:
        """Returns the mean cross-entropy of the tokens."""
        windows = [self._sample_window(random) for _ in range(self._config.fit.batch_size)]
        samples = torch.from_numpy(np.stack([samples for samples, _ in windows])).to(self._device)
        labels = torch.from_numpy(np.stack([labels for _, labels in windows])).to(self._device, torch.long)
        logits = self.head(self.encoder(samples).last_hidden_state)  # (B, T, classes)
        return F.cross_entropy(
            logits.flatten(0, 1).float(), labels.flatten(), label_smoothing=self._config.label_smoothing
        )

    def _sample_window(self, random: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Returns an augmented, normalized window of a random utterance and the classes of its tokens."""
        samples, labels = self._dataset[int(random.integers(len(self._dataset)))]
        count = token_count(round(self._config.window_seconds * AUDIO_SAMPLE_RATE))
        first = int(random.integers(max(1, len(labels) - count + 1)))
        window_labels = labels[first : first + count]
        length = (count - 1) * 320 + 400
        waveform = samples[first * 320 : first * 320 + length]
        waveform = np.pad(waveform, (0, length - len(waveform)))
        window_labels = np.pad(window_labels, (0, count - len(window_labels)), constant_values=SILENCE_CLASS)
        return normalize_waveform(augment_waveform(waveform, random)), window_labels


def normalize_waveform(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """Normalizes a waveform to mean 0 and standard deviation 1, as Wav2Vec2FeatureExtractor does."""
    centered = waveform - waveform.mean()
    return (centered / np.sqrt(centered.var() + 1e-7)).astype(np.float32)


def augment_waveform(waveform: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
    """Simulates another microphone and room: a random smooth equalizer, an echo and noise.

    Synthetic voices are clean and similar to one another; the augmentation narrows the gap to recorded speech.
    """
    length = len(waveform)
    spectrum = np.fft.rfft(waveform, 2 * length)
    bands = np.interp(np.linspace(0, 1, len(spectrum)), np.linspace(0, 1, 9), random.normal(0, 4, 9))  # decibels
    augmented = np.fft.irfft(spectrum * 10 ** (bands / 20), 2 * length)[:length]
    if random.random() < 0.5:
        decay = random.uniform(0.02, 0.15) * AUDIO_SAMPLE_RATE
        echo = random.standard_normal(round(3 * decay)) * np.exp(-np.arange(round(3 * decay)) / decay)
        echo *= random.uniform(0.05, 0.4) / np.sqrt((echo**2).sum())
        echo[0] = 1
        padded = 2 ** int(np.ceil(np.log2(length + len(echo))))
        augmented = np.fft.irfft(np.fft.rfft(augmented, padded) * np.fft.rfft(echo, padded), padded)[:length]
    noise = random.standard_normal(length)
    if random.random() < 0.5:
        noise = np.cumsum(noise) - np.linspace(0, 1, length) * noise.sum()  # brown noise, like rumble
    loudness = np.sqrt((augmented**2).mean()) * 10 ** (-random.uniform(8, 45) / 20)
    return (augmented + noise * loudness / max(float(noise.std()), 1e-9)).astype(np.float32)


@torch.no_grad()
def token_accuracy(encoder: AudioEncoder, head: nn.Linear, dataset: SpeechDataset) -> dict[str, float]:
    """Returns the fraction of tokens that are classified correctly: of all, of phonemes, and of silence."""
    correct_total = total = correct_speech = speech_total = correct_silence = 0
    for index in range(len(dataset)):
        samples, labels = dataset[index]
        predicted = head(encoder.encode(samples)).argmax(dim=-1).numpy()
        correct, is_speech = predicted == labels, labels != SILENCE_CLASS
        correct_total, total = correct_total + int(correct.sum()), total + len(labels)
        correct_speech, speech_total = (
            correct_speech + int(correct[is_speech].sum()),
            speech_total + int(is_speech.sum()),
        )
        correct_silence += int(correct[~is_speech].sum())
    return {
        "accuracy": correct_total / total,
        "accuracy_sounding": correct_speech / max(1, speech_total),
        "accuracy_silence": correct_silence / max(1, total - speech_total),
        "utterances": len(dataset),
    }


def save_audio_encoder(model: Wav2Vec2Model, folder: Path) -> None:
    """Writes the component `audio_encoder` in half precision, with its feature extractor."""
    to_half_precision(model)
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
