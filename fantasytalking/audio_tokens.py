"""Describes the tokens of an audio encoder: which encoder made them, how wide they are, and when each of them is.

Feature files and adapters record the description, so that a model is never given the tokens of another encoder than it
was trained on.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fantasytalking.common.errors import ErrorCode, InputError

AUDIO_SAMPLE_RATE = 16_000
"""Sample rate in Hz that every supported audio encoder reads."""
MAX_TOKENS_PER_SECOND = 1000.0
MAX_TOKEN_WIDTH = 1 << 16
MAX_SAMPLED_WEIGHTS = 64
WEIGHT_TOLERANCE = 0.01
"""Relative difference of two equal weights, of which one was rounded to half precision (bfloat16: 0.004)."""


class TokenTiming(NamedTuple):
    """Times of an encoder's tokens: token t is centered at `first_center` + t / `tokens_per_second`."""

    tokens_per_second: float
    first_center: float
    """Center of the first token's receptive field, in seconds from the start of the audio."""

    def centers(self, count: int) -> NDArray[np.float64]:
        """Returns (count,) seconds: the center of each token."""
        return self.first_center + np.arange(count, dtype=np.float64) / self.tokens_per_second


WAV2VEC2_TIMING = TokenTiming(50.0, 200 / AUDIO_SAMPLE_RATE)
"""Timing of wav2vec2 (arXiv 2006.11477, section 3): a stride of 320 and a receptive field of 400 samples at 16 kHz."""


@dataclass(frozen=True)
class AudioEncoderSpec:
    """Identity of an audio encoder, as feature files and adapters record it."""

    kind: str
    """Architecture, by its `model_type` in transformers: wav2vec2, hubert, wavlm or whisper."""
    dim: int
    """Channels of a token (768 for wav2vec2-base)."""
    timing: TokenTiming = WAV2VEC2_TIMING
    weights: tuple[float, ...] = ()
    """Some of its weights, by which models of one kind and width are told apart; empty: not known."""

    @classmethod
    def unrecorded(cls, dim: int) -> "AudioEncoderSpec":
        """Returns the encoder of files of earlier releases, which read wav2vec2 only and did not record it."""
        return cls("wav2vec2", dim)

    @classmethod
    def from_dict(cls, values: Any, source: str) -> "AudioEncoderSpec":
        """Reads what `to_dict` returned.

        Raises:
            InputError: a value is missing, unknown, of another type or out of range; names `source`.
        """
        keys = ("kind", "dim", "tokens_per_second", "first_center", "weights")
        if not isinstance(values, dict) or values.keys() != set(keys):
            raise _malformed(source, "audio_encoder", values, f"the keys {', '.join(keys)} are needed")
        kind, dim, weights = values["kind"], values["dim"], values["weights"]
        if not isinstance(kind, str) or not 0 < len(kind) <= 64:
            raise _malformed(source, "audio_encoder.kind", kind, "the name of an architecture is needed")
        if type(dim) is not int or not 1 <= dim <= MAX_TOKEN_WIDTH:
            raise _malformed(source, "audio_encoder.dim", dim, f"it must be 1 to {MAX_TOKEN_WIDTH}")
        for name, low, high in (("tokens_per_second", 1.0, MAX_TOKENS_PER_SECOND), ("first_center", 0.0, 1.0)):
            if not _is_number(values[name]) or not low <= values[name] <= high:
                raise _malformed(source, f"audio_encoder.{name}", values[name], f"it must be {low:g} to {high:g}")
        if not isinstance(weights, list) or len(weights) > MAX_SAMPLED_WEIGHTS or not all(map(_is_number, weights)):
            raise _malformed(source, "audio_encoder.weights", weights, f"at most {MAX_SAMPLED_WEIGHTS} numbers")
        timing = TokenTiming(float(values["tokens_per_second"]), float(values["first_center"]))
        return cls(kind, dim, timing, tuple(map(float, weights)))

    def to_dict(self) -> dict[str, Any]:
        """Returns the description as JSON can store it."""
        return {"kind": self.kind, "dim": self.dim, **self.timing._asdict(), "weights": list(self.weights)}

    def __str__(self) -> str:
        return f"{self.kind} with {self.dim} channels"


def check_same_encoder(found: AudioEncoderSpec, expected: AudioEncoderSpec, what: str, cure: str) -> None:
    """Checks that two descriptions are of one audio encoder; unknown weights agree with any.

    Args:
        what: subject of the message, which says of what `found` is ("the feature file 'a.safetensors' is").
        cure: end of the message.

    Raises:
        InputError: they differ; `value` is the first difference of `found`: kind, channels, timing or weights.
    """
    differences: list[tuple[bool, Any]] = [
        (found.kind != expected.kind, found.kind),
        (found.dim != expected.dim, found.dim),
        (found.timing != expected.timing, tuple(found.timing)),
        (not _same_weights(found.weights, expected.weights), found.weights),
    ]
    value = next((value for differs, value in differences if differs), None)
    if value is None:
        return
    if (found.kind, found.dim) != (expected.kind, expected.dim):
        contrast = f"{found}, but {expected} is needed"
    elif found.timing != expected.timing:
        contrast = f"{found} at {tuple(found.timing)} tokens per second and first center, not {tuple(expected.timing)}"
    else:
        contrast = f"{found}, but with other weights than the model that is needed"
    raise InputError(f"{what} {contrast}; {cure}", code=ErrorCode.conflict, field="audio_encoder", value=value)


def _same_weights(some: Sequence[float], others: Sequence[float]) -> bool:
    if not some or not others:
        return True
    return len(some) == len(others) and all(
        math.isclose(one, other, rel_tol=WEIGHT_TOLERANCE, abs_tol=1e-6)
        for one, other in zip(some, others, strict=True)
    )


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _malformed(source: str, field: str, value: Any, requirement: str) -> InputError:
    return InputError(
        f"{source}: {field} is {str(value)[:60]}; {requirement}",
        code=ErrorCode.malformed_file,
        field=field,
        value=value,
    )
