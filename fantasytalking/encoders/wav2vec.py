"""Encodes speech with wav2vec2 (arXiv 2006.11477), or HuBERT and WavLM, which share its layout: convolutions over
samples, then a transformer. Memory does not grow with the length of the audio.

Token t of wav2vec2 covers 25 ms of audio (a receptive field of 400 samples) centered at (320 t + 200) / 16000 s.
"""

from typing import ClassVar, NamedTuple

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, SequenceFeatureExtractor

from fantasytalking.audio_tokens import AUDIO_SAMPLE_RATE, TokenTiming
from fantasytalking.encoders.audio_features import AudioEncoder, spans, unsupported

MAX_RECEPTIVE_FIELD = AUDIO_SAMPLE_RATE
"""Longest supported receptive field of a token in samples: 1 s."""


class ConvGeometry(NamedTuple):
    """Geometry of the convolutions over samples; none of them is padded."""

    stride: int
    """Samples per token."""
    receptive_field: int
    """Samples that a token covers."""

    @classmethod
    def from_config(cls, config: PretrainedConfig) -> "ConvGeometry":
        """Reads the convolutions of a model.

        Raises:
            InputError: a token covers more than 1 s, or the tokens leave gaps.
        """
        stride, field = 1, 1
        for kernel, step in zip(config.conv_kernel, config.conv_stride, strict=True):
            field += (kernel - 1) * stride
            stride *= step
        if not 1 <= stride <= field <= MAX_RECEPTIVE_FIELD:
            raise unsupported(
                f"the audio encoder has stride {stride} and receptive field {field}; 1 <= stride <= receptive field "
                f"<= {MAX_RECEPTIVE_FIELD} samples is needed",
                (stride, field),
            )
        return cls(stride, field)


WAV2VEC2_GEOMETRY = ConvGeometry(320, 400)
"""Of all released models of wav2vec2, HuBERT and WavLM."""


def token_count(samples: int, geometry: ConvGeometry = WAV2VEC2_GEOMETRY) -> int:
    """Returns the number of tokens of `samples` samples at 16 kHz, without padding."""
    return max(0, (samples - geometry.receptive_field) // geometry.stride + 1)


def token_times(count: int, geometry: ConvGeometry = WAV2VEC2_GEOMETRY) -> NDArray[np.float64]:
    """Returns (count,) seconds: the center of each token's receptive field."""
    return (geometry.stride * np.arange(count, dtype=np.float64) + geometry.receptive_field / 2) / AUDIO_SAMPLE_RATE


class Wav2Vec2AudioEncoder(AudioEncoder):
    """Runs Wav2Vec2Model, HubertModel or WavLMModel with its processor's normalization (for wav2vec2, zero mean and
    unit variance over the whole audio).

    Audio up to `window_seconds` is encoded in one pass. Longer audio is encoded in windows; only the middle of each
    window is kept, and `context_seconds` on both sides are context for the transformer. The normalization and the
    statistics of the first layer's group norm over time are those of the whole audio, so that the convolutional
    features equal those of one pass up to rounding. Only the transformer lacks attention beyond the window (cosine
    similarity of the tokens to one pass at least 0.99 with the seeded model of the tests). wav2vec2 was trained on at
    most 16 s.

    Args:
        model: the model.
        feature_extractor: its feature extractor.
        window_seconds: maximum length of one pass, in seconds.
        context_seconds: context on both sides of a window, in seconds.
    """

    # masked_spec_embed is for SpecAugment in the training of wav2vec2; released files lack it.
    allowed_missing: ClassVar[tuple[str, ...]] = (r"(.*\.)?masked_spec_embed",)

    def __init__(
        self,
        model: PreTrainedModel,
        feature_extractor: SequenceFeatureExtractor,
        window_seconds: float = 40.0,
        context_seconds: float = 5.0,
    ) -> None:
        super().__init__(model, feature_extractor)
        assert window_seconds > 2 * context_seconds, "a window must be longer than its context"
        self.geometry = ConvGeometry.from_config(model.config)
        self.window_tokens = round(window_seconds * AUDIO_SAMPLE_RATE / self.geometry.stride)
        self.context_tokens = round(context_seconds * AUDIO_SAMPLE_RATE / self.geometry.stride)

    @classmethod
    def timing_of(cls, config: PretrainedConfig) -> TokenTiming:
        """50 tokens per second, the first centered at 12.5 ms, for the convolutions of all released models.

        Raises:
            InputError: an adapter of the model shortens its output, or the convolutions are out of range.
        """
        if getattr(config, "add_adapter", False):
            raise unsupported("the audio encoder has layers after its transformer (add_adapter)", "add_adapter")
        stride, field = ConvGeometry.from_config(config)
        return TokenTiming(AUDIO_SAMPLE_RATE / stride, field / 2 / AUDIO_SAMPLE_RATE)

    def token_count(self, num_samples: int) -> int:
        """Returns the number of tokens whose receptive fields lie within `num_samples` samples."""
        return token_count(num_samples, self.geometry)

    def _encode(self, samples: NDArray[np.float32], count: int) -> Tensor:
        normalized = self.feature_extractor(samples, sampling_rate=AUDIO_SAMPLE_RATE, return_tensors="pt").input_values[
            0
        ]
        if count <= self.window_tokens:
            return self._last_hidden_state(normalized)
        return self._encode_in_windows(normalized, count)

    def _last_hidden_state(self, samples: Tensor) -> Tensor:
        inputs = rearrange(samples, "s -> 1 s").to(self._device, self.model.dtype)
        states: Tensor = self.model(inputs).last_hidden_state[0]
        return states.float().cpu()

    def _encode_in_windows(self, samples: Tensor, count: int) -> Tensor:
        statistics = self._group_norm_statistics(samples, count)
        output = torch.empty(count, self.dim)
        for start, stop in spans(count, self.window_tokens - 2 * self.context_tokens):
            first, last = max(0, start - self.context_tokens), min(count, stop + self.context_tokens)
            convolved = self._convolve(self._samples_for_tokens(samples, first, last), statistics)
            hidden = self._project(rearrange(convolved, "1 c t -> 1 t c"))
            states = self.model.encoder(hidden).last_hidden_state[0]
            output[start:stop] = states[start - first : stop - first].float().cpu()
        return output

    def _project(self, convolved: Tensor) -> Tensor:
        """(1, T, C) to (1, T, D): the input of the transformer."""
        projected: Tensor | tuple[Tensor, Tensor] = self.model.feature_projection(convolved)
        return projected if isinstance(projected, Tensor) else projected[0]  # HuBERT returns the first part only

    def _samples_for_tokens(self, samples: Tensor, first: int, last: int) -> Tensor:
        """The samples in the receptive fields of tokens `first` to `last` - 1."""
        stride, field = self.geometry
        return samples[first * stride : (last - 1) * stride + field]

    def _convolve(self, samples: Tensor, statistics: tuple[Tensor, Tensor] | None) -> Tensor:
        """Returns the (1, C, T) convolutional features, with the given statistics of the first layer's group norm."""
        inputs = rearrange(samples, "s -> 1 1 s").to(self._device, self.model.dtype)
        first, *others = self.model.feature_extractor.conv_layers
        if statistics is None:
            hidden = first(inputs)
        else:
            mean, inverse = statistics
            norm = first.layer_norm
            hidden = (first.conv(inputs) - mean) * inverse * norm.weight[:, None] + norm.bias[:, None]
            hidden = first.activation(hidden)
        for layer in others:
            hidden = layer(hidden)
        return hidden

    def _group_norm_statistics(self, samples: Tensor, count: int) -> tuple[Tensor, Tensor] | None:
        """Returns mean and inverse deviation (C, 1) of the first layer over the whole audio; None without a group norm.

        wav2vec2-base normalizes each channel of its first layer over time; the large models do not.
        """
        first = self.model.feature_extractor.conv_layers[0]
        norm = getattr(first, "layer_norm", None)
        if not isinstance(norm, nn.GroupNorm):
            return None
        kernel, stride = first.conv.kernel_size[0], first.conv.stride[0]
        total = (len(samples) - kernel) // stride + 1
        device = torch.device("cpu") if self._device.type == "mps" else self._device  # mps has no float64
        sums = torch.zeros(2, norm.num_channels, dtype=torch.float64, device=device)
        for start, stop in spans(total, self.window_tokens * self.geometry.stride // stride):
            piece = samples[start * stride : (stop - 1) * stride + kernel]
            hidden = first.conv(rearrange(piece, "s -> 1 1 s").to(self._device, self.model.dtype))[0]
            hidden = hidden.to(device).double()
            sums += torch.stack([hidden.sum(dim=1), hidden.square().sum(dim=1)])
        mean, square = sums / total
        inverse = (square - mean.square() + norm.eps).rsqrt()
        mean, inverse = (value.to(self.model.dtype)[:, None].to(self._device) for value in (mean, inverse))
        return mean, inverse
