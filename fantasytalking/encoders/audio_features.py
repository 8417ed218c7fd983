"""Provides the interface of the audio encoders: speech at 16 kHz to tokens, with memory independent of its length."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers.utils.torch_utils import get_module_execution_device
from numpy.typing import NDArray
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, SequenceFeatureExtractor

from fantasytalking.audio_tokens import AUDIO_SAMPLE_RATE, AudioEncoderSpec, TokenTiming
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.encoders.loading import onload_module

NUM_SAMPLED_WEIGHTS = 16
"""Weights that tell models of one architecture apart."""


class AudioEncoder(ABC):
    """Encodes speech with a model of transformers.

    Args:
        model: the model.
        feature_extractor: its feature extractor.
    """

    allowed_missing: ClassVar[tuple[str, ...]] = ()
    """Patterns of the weights that files may lack."""

    def __init__(self, model: PreTrainedModel, feature_extractor: SequenceFeatureExtractor) -> None:
        self.model, self.feature_extractor = model, feature_extractor
        self.timing = self.timing_of(model.config)

    @classmethod
    @abstractmethod
    def timing_of(cls, config: PretrainedConfig) -> TokenTiming:
        """Returns when the tokens of a model are."""

    @classmethod
    def check_processor_config(cls, values: dict[str, Any], source: str) -> None:
        """Checks preprocessor_config.json before the feature extractor is built from it.

        Raises:
            InputError: the model does not read 16 kHz.
        """
        rate = values.get("sampling_rate", AUDIO_SAMPLE_RATE)
        if rate != AUDIO_SAMPLE_RATE:
            raise unsupported(f"audio encoder '{source}' reads {rate} Hz; {AUDIO_SAMPLE_RATE} Hz is needed", rate)

    @classmethod
    def spec_of(cls, config: PretrainedConfig) -> AudioEncoderSpec:
        """Returns what a configuration says about the tokens; the weights are not known."""
        return AudioEncoderSpec(config.model_type, config.hidden_size, cls.timing_of(config))

    @property
    def spec(self) -> AudioEncoderSpec:
        """The encoder's identity, which feature files and adapters record."""
        known = self.spec_of(self.model.config)
        return AudioEncoderSpec(known.kind, known.dim, known.timing, sample_weights(self.model))

    @property
    def dim(self) -> int:
        """Number of channels of a token."""
        return int(self.model.config.hidden_size)

    @property
    def stride(self) -> int:
        """Samples from the center of one token to that of the next."""
        return round(AUDIO_SAMPLE_RATE / self.timing.tokens_per_second)

    @abstractmethod
    def token_count(self, num_samples: int) -> int:
        """Returns the number of tokens of `num_samples` samples."""

    @torch.no_grad()
    def encode(self, samples: NDArray[np.float32]) -> Tensor:
        """Returns the features of mono audio at 16 kHz.

        Args:
            samples: (S,) float32 in [-1, 1].

        Returns:
            (token_count(S), D) last hidden states, float32, on the CPU.

        Raises:
            InputError: the audio is shorter than one token.
        """
        assert samples.ndim == 1, f"samples must be (S,), not {samples.shape}"
        count = self.token_count(len(samples))
        if count == 0:
            raise InputError(
                f"the audio has {len(samples)} samples, fewer than one token of the audio encoder reads; give longer "
                "audio",
                code=ErrorCode.out_of_range,
                field="samples",
                value=len(samples),
            )
        onload_module(self.model)
        return self._encode(samples, count)

    @abstractmethod
    def _encode(self, samples: NDArray[np.float32], count: int) -> Tensor:
        """(count, D) of at least one token."""

    @property
    def _device(self) -> torch.device:
        """Device on which the model computes; offloaded weights may be on another one."""
        return get_module_execution_device(self.model)


def spans(count: int, length: int) -> Iterator[tuple[int, int]]:
    """Yields start and stop of consecutive pieces of at most `length` out of `count`."""
    for start in range(0, count, length):
        yield start, min(count, start + length)


def sample_weights(model: PreTrainedModel) -> tuple[float, ...]:
    """Returns the middle elements of some of the model's matrices, in the order of their names.

    They differ between any two trained models, at negligible cost, and remain equal up to rounding where weights are
    stored in another file format or type. Empty where they cannot be read: quantized or offloaded weights.
    """
    names = sorted(name for name, value in model.named_parameters() if value.ndim == 2)
    chosen = [names[len(names) * i // NUM_SAMPLED_WEIGHTS] for i in range(min(NUM_SAMPLED_WEIGHTS, len(names)))]
    parameters = dict(model.named_parameters())
    values = [parameters[name].detach() for name in chosen]
    if any(value.is_meta or not value.is_floating_point() or type(value.data) is not Tensor for value in values):
        return ()
    return tuple(float(f"{value.flatten()[value.numel() // 2].item():.6g}") for value in values)


def unsupported(message: str, value: Any) -> InputError:
    """Returns the error of a model that cannot be used as audio encoder."""
    return InputError(
        f"{message}; use a model such as facebook/wav2vec2-base-960h or openai/whisper-small",
        code=ErrorCode.unsupported,
        field="audio_encoder",
        value=value,
    )
