"""Encodes speech with the encoder of Whisper (arXiv 2212.04356), 30 seconds at a time.

Token t is centered at 320 t / 16000 s, so the first one at the start of the audio: mel frame j is centered at sample
160 j (torch.stft with `center=True`; openai/whisper, audio.py), and the second convolution, of kernel 3, stride 2 and
padding 1, centers token t at mel frame 2 t (openai/whisper, model.py, AudioEncoder).
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, SequenceFeatureExtractor, WhisperConfig
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper.modeling_whisper import WhisperEncoder, WhisperPreTrainedModel

from fantasytalking.audio_tokens import AUDIO_SAMPLE_RATE, TokenTiming
from fantasytalking.encoders.audio_features import AudioEncoder, spans, unsupported

WHISPER_STRIDE = 320
"""Samples per token: hops of 160 samples, halved by the second convolution."""
WHISPER_PROCESSOR = {"n_fft": (400,), "hop_length": (160,), "feature_size": (80, 128), "chunk_length": range(1, 31)}
"""Supported values of the log-mel spectrogram. Released models have 80 mel bands, 128 from large-v3 on, of 30 s."""
WHISPER_DYNAMIC_RANGE = 2.0
"""Range of the log-mel values below their maximum: 8 decades, divided by 4 (openai/whisper, audio.py)."""


class WhisperSpeechEncoder(WhisperPreTrainedModel):
    """The encoder of a Whisper checkpoint, loaded and saved without the decoder.

    Args:
        config: configuration of the whole model.
    """

    _keys_to_ignore_on_load_unexpected = (r"decoder\.", r"proj_out\.")

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__(config)
        self.encoder = WhisperEncoder(config)
        self.post_init()

    def forward(self, input_features: Tensor) -> BaseModelOutput:
        """Returns the states (B, T, D) of log-mel features (B, M, 2 T)."""
        output: BaseModelOutput = self.encoder(input_features)
        return output


class WhisperAudioEncoder(AudioEncoder):
    """Runs Whisper's encoder on windows of 30 s, padded with silence whose tokens are discarded.

    Audio up to 30 s is encoded in one window. Of longer audio, the middle of each window is kept, and `context_seconds`
    on both sides are context. The log-mel values are limited below the maximum of the whole audio, as in one pass.

    Args:
        model: a `WhisperSpeechEncoder`.
        feature_extractor: its feature extractor.
        context_seconds: context on both sides of a window, in seconds.
    """

    def __init__(
        self, model: PreTrainedModel, feature_extractor: SequenceFeatureExtractor, context_seconds: float = 5.0
    ) -> None:
        super().__init__(model, feature_extractor)
        bins, seconds = model.config.num_mel_bins, feature_extractor.chunk_length
        self.window_tokens = int(model.config.max_source_positions)
        if feature_extractor.feature_size != bins or seconds * AUDIO_SAMPLE_RATE != self.window_tokens * self.stride:
            raise unsupported(
                f"the audio encoder reads {bins} mel bands and {self.window_tokens} tokens, its feature extractor "
                f"returns {feature_extractor.feature_size} mel bands of {seconds} s",
                (feature_extractor.feature_size, seconds),
            )
        self.context_tokens = round(context_seconds * self.timing.tokens_per_second)
        assert self.window_tokens > 2 * self.context_tokens, "a window must be longer than its context"

    @classmethod
    def timing_of(cls, config: PretrainedConfig) -> TokenTiming:
        """50 tokens per second for every size, the first centered at the start of the audio."""
        return TokenTiming(AUDIO_SAMPLE_RATE / WHISPER_STRIDE, 0.0)

    @classmethod
    def check_processor_config(cls, values: dict[str, Any], source: str) -> None:
        """Checks preprocessor_config.json before the feature extractor is built from it.

        Raises:
            InputError: it describes another spectrogram than that of the released models.
        """
        super().check_processor_config(values, source)
        for name, allowed in WHISPER_PROCESSOR.items():
            value = values.get(name, allowed[0])
            if type(value) is not int or value not in allowed:
                raise unsupported(f"audio encoder '{source}' has {name} {str(value)[:40]}; {allowed} is needed", value)
        if values.get("dither", 0.0) != 0.0:
            raise unsupported(f"audio encoder '{source}' adds random noise (dither); 0 is needed", values["dither"])

    def token_count(self, num_samples: int) -> int:
        """Returns the number of tokens whose centers lie within `num_samples` samples."""
        return -(-num_samples // WHISPER_STRIDE)

    def _encode(self, samples: NDArray[np.float32], count: int) -> Tensor:
        if count <= self.window_tokens:
            return self._hidden_states(self._log_mel(samples))[:count]
        window = self.window_tokens * WHISPER_STRIDE
        peak = max(float(self._log_mel(samples[start:stop]).max()) for start, stop in spans(len(samples), window))
        output = torch.empty(count, self.dim)
        for start, stop in spans(count, self.window_tokens - 2 * self.context_tokens):
            first, last = max(0, start - self.context_tokens), min(count, stop + self.context_tokens)
            log_mel = self._log_mel(samples[first * WHISPER_STRIDE : last * WHISPER_STRIDE])
            states = self._hidden_states(log_mel.clamp(min=peak - WHISPER_DYNAMIC_RANGE))
            output[start:stop] = states[start - first : stop - first]
        return output

    def _log_mel(self, samples: NDArray[np.float32]) -> Tensor:
        """(1, M, 2 x window_tokens), padded with silence."""
        features: Tensor = self.feature_extractor(
            samples, sampling_rate=AUDIO_SAMPLE_RATE, return_tensors="pt"
        ).input_features
        return features

    def _hidden_states(self, log_mel: Tensor) -> Tensor:
        states: Tensor = self.model(log_mel.to(self._device, self.model.dtype)).last_hidden_state[0]
        return states.float().cpu()
