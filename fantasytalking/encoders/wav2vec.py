"""Encodes speech with wav2vec2; memory does not grow with the length of the audio.

Token t covers 25 ms of audio (a receptive field of 400 samples) centered at (320 t + 200) / 16000 s.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.utils.torch_utils import get_module_execution_device
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Model

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.encoders.loading import load_component, load_model, onload_module

WAV2VEC_SAMPLE_RATE = 16_000
WAV2VEC_STRIDE = 320
WAV2VEC_RECEPTIVE_FIELD = 400


def token_count(samples: int) -> int:
    """Returns the number of wav2vec2 tokens of `samples` samples at 16 kHz, without padding."""
    return max(0, (samples - WAV2VEC_RECEPTIVE_FIELD) // WAV2VEC_STRIDE + 1)


def token_times(count: int) -> NDArray[np.float64]:
    """Returns (count,) seconds: the center of each token's receptive field."""
    return (WAV2VEC_STRIDE * np.arange(count, dtype=np.float64) + WAV2VEC_RECEPTIVE_FIELD / 2) / WAV2VEC_SAMPLE_RATE


class AudioEncoder:
    """Runs Wav2Vec2Model with its processor's normalization (zero mean and unit variance over the whole audio).

    Audio up to `window_seconds` is encoded in one pass. Longer audio is encoded in windows; only the middle of each
    window is kept, and `context_seconds` on both sides are context for the transformer. The normalization and the
    statistics of the first layer's group norm over time are those of the whole audio, so that the convolutional
    features equal those of one pass up to rounding. Only the transformer lacks attention beyond the window (cosine
    similarity of the tokens to one pass at least 0.99 with the seeded model of the tests). wav2vec2 was trained on at
    most 16 s.

    Args:
        model: the wav2vec2 model.
        feature_extractor: its feature extractor.
        window_seconds: maximum length of one pass, in seconds.
        context_seconds: context on both sides of a window, in seconds.
    """

    def __init__(
        self,
        model: Wav2Vec2Model,
        feature_extractor: Wav2Vec2FeatureExtractor,
        window_seconds: float = 40.0,
        context_seconds: float = 5.0,
    ) -> None:
        assert window_seconds > 2 * context_seconds, "a window must be longer than its context"
        self.model, self.feature_extractor = model, feature_extractor
        self.window_tokens = round(window_seconds * WAV2VEC_SAMPLE_RATE / WAV2VEC_STRIDE)
        self.context_tokens = round(context_seconds * WAV2VEC_SAMPLE_RATE / WAV2VEC_STRIDE)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        subfolder: str = "",
        processor_subfolder: str | None = None,
        device: torch.device | str | None = "cpu",
        dtype: torch.dtype = torch.float32,
        **options: Any,
    ) -> "AudioEncoder":
        """Loads a model from a folder or hub id (facebook/wav2vec2-base-960h).

        Args:
            source: the folder or hub id.
            subfolder: the folder of the model within `source`.
            processor_subfolder: the folder of the feature extractor; None uses `subfolder`.
            device: the device of the model.
            dtype: the data type of the model.
            options: further arguments of the model's `from_pretrained`.

        Raises:
            InputError: the model is missing, damaged, incomplete, or not for 16 kHz with stride 320.
        """
        extractor = load_component(
            Wav2Vec2FeatureExtractor.from_pretrained,
            source,
            subfolder if processor_subfolder is None else processor_subfolder,
            "audio processor",
        )
        # masked_spec_embed is for SpecAugment in wav2vec2's training; released files lack it.
        model = load_model(
            Wav2Vec2Model,
            source,
            subfolder,
            "audio encoder",
            allowed_missing=(r"(.*\.)?masked_spec_embed",),
            device=device,
            dtype=dtype,
            **options,
        )
        stride, field = _conv_geometry(model)
        if extractor.sampling_rate != WAV2VEC_SAMPLE_RATE or (stride, field) != (
            WAV2VEC_STRIDE,
            WAV2VEC_RECEPTIVE_FIELD,
        ):
            raise InputError(
                f"audio encoder '{source}' needs {extractor.sampling_rate} Hz, stride {stride} and receptive field "
                f"{field}; it must be {WAV2VEC_SAMPLE_RATE} Hz, {WAV2VEC_STRIDE} and {WAV2VEC_RECEPTIVE_FIELD}; "
                "use a model such as wav2vec2-base-960h",
                code=ErrorCode.unsupported,
                field="audio_encoder",
                value=(extractor.sampling_rate, stride, field),
            )
        return cls(model, extractor)

    @property
    def dim(self) -> int:
        """Number of channels of a token (768 for wav2vec2-base)."""
        return self.model.config.hidden_size

    @property
    def _device(self) -> torch.device:
        """Device on which the model computes; offloaded weights may be on another one."""
        return get_module_execution_device(self.model)

    @torch.no_grad()
    def encode(self, samples: NDArray[np.float32]) -> Tensor:
        """Returns the features of mono audio at 16 kHz.

        Args:
            samples: (S,) float32 in [-1, 1].

        Returns:
            (token_count(S), D) last hidden states, float32, on the CPU.

        Raises:
            InputError: the audio is shorter than one token (25 ms).
        """
        assert samples.ndim == 1, f"samples must be (S,), not {samples.shape}"
        count = token_count(len(samples))
        if count == 0:
            raise InputError(
                f"the audio has {len(samples)} samples; at least {WAV2VEC_RECEPTIVE_FIELD} (25 ms) are needed; give "
                "longer audio",
                code=ErrorCode.out_of_range,
                field="samples",
                value=len(samples),
            )
        normalized = self.feature_extractor(
            samples, sampling_rate=WAV2VEC_SAMPLE_RATE, return_tensors="pt"
        ).input_values[0]
        onload_module(self.model)
        if count <= self.window_tokens:
            return self._last_hidden_state(normalized)
        return self._encode_in_windows(normalized, count)

    def _last_hidden_state(self, samples: Tensor) -> Tensor:
        inputs = rearrange(samples, "s -> 1 s").to(self._device, self.model.dtype)
        return self.model(inputs).last_hidden_state[0].float().cpu()

    def _encode_in_windows(self, samples: Tensor, count: int) -> Tensor:
        statistics = self._group_norm_statistics(samples, count)
        output = torch.empty(count, self.dim)
        for start, stop in _spans(count, self.window_tokens - 2 * self.context_tokens):
            first, last = max(0, start - self.context_tokens), min(count, stop + self.context_tokens)
            convolved = self._convolve(_samples_for_tokens(samples, first, last), statistics)
            hidden, _ = self.model.feature_projection(rearrange(convolved, "1 c t -> 1 t c"))
            states = self.model.encoder(hidden).last_hidden_state[0]
            output[start:stop] = states[start - first : stop - first].float().cpu()
        return output

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
        sums = torch.zeros(2, norm.num_channels, dtype=torch.float64, device=self._device)
        for start, stop in _spans(total, self.window_tokens * WAV2VEC_STRIDE // stride):
            piece = samples[start * stride : (stop - 1) * stride + kernel]
            hidden = first.conv(rearrange(piece, "s -> 1 1 s").to(self._device, self.model.dtype))[0].double()
            sums += torch.stack([hidden.sum(dim=1), hidden.square().sum(dim=1)])
        mean, square = sums / total
        inverse = (square - mean.square() + norm.eps).rsqrt()
        return mean.to(self.model.dtype)[:, None], inverse.to(self.model.dtype)[:, None]


def _spans(count: int, length: int) -> Iterator[tuple[int, int]]:
    for start in range(0, count, length):
        yield start, min(count, start + length)


def _samples_for_tokens(samples: Tensor, first: int, last: int) -> Tensor:
    """Returns the samples in the receptive fields of tokens `first` to `last` - 1."""
    return samples[first * WAV2VEC_STRIDE : (last - 1) * WAV2VEC_STRIDE + WAV2VEC_RECEPTIVE_FIELD]


def _conv_geometry(model: Wav2Vec2Model) -> tuple[int, int]:
    """Returns the stride and the receptive field of the convolutions, in samples."""
    stride, field = 1, 1
    for kernel, step in zip(model.config.conv_kernel, model.config.conv_stride, strict=True):
        field += (kernel - 1) * stride
        stride *= step
    return stride, field
